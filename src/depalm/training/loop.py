"""Training of an adapter on a backbone's tokens, against a frozen LLM
(docs/methods.md#training-and-generation).
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from depalm.adapters.adapter import Adapter
from depalm.features.base import FeatureSource, read_each
from depalm.llms.base import LLM
from depalm.llms.injection import hidden_states
from depalm.modes import in_training_mode
from depalm.precision import float32_products, on_its_way
from depalm.progress import Progress, logger
from depalm.specs import TrainSpec
from depalm.training.batches import IGNORED, Batch, TrainingSet, batch_stream
from depalm.training.group import ALONE, Group
from depalm.training.log import NoLog, TrainingLog
from depalm.training.schedule import Schedule, TrainingError
from depalm.training.state import CHECKPOINT, Training
from depalm.training.step import Steps
from depalm.training.tracking import Tracker
from depalm.training.validation import Validator, batches_of

LOOK_SECONDS = 1.0  # between looks at the numbers of the steps; a GPU works on meanwhile
MULTIPLE = 8  # the lengths of texts on a GPU, so that its kernels see few shapes


def answer_loss(
    llm: LLM,
    adapter: Adapter,
    features: Tensor | None,
    batch: Batch,
    smoothing: float,
    compute: str = "float32",
) -> Tensor:
    """Mean cross entropy over the answers' tokens and EOS; logits are computed at those positions
    alone. The adapter computes in `compute`.
    """
    device = next(llm.model.parameters()).device
    learned = (batch.labels.flatten() != IGNORED).nonzero()[:, 0]  # of B S positions
    labels = on_its_way(batch.labels.flatten()[learned], device)
    token_ids = on_its_way(batch.token_ids, device)
    texts = None if batch.texts is None else on_its_way(batch.texts, device)
    injection = adapter(features, compute)
    hidden = hidden_states(llm, token_ids, injection, texts=texts)  # [B, S, D]
    logits = llm.head(hidden.flatten(0, 1)[on_its_way(learned, device)]).float()  # [labels, V]
    return torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)


def train(
    llm: LLM,
    adapter: Adapter,
    data: TrainingSet,
    source: FeatureSource,
    settings: TrainSpec,
    seed: int,
    folder: Path,
    identity: Mapping[str, Any],
    before_writing: Callable[[], None] = lambda: None,
    held: TrainingSet | None = None,
    tracker: Tracker | None = None,
    group: Group = ALONE,
) -> Training:
    """Train `adapter` on `data`; checkpoints, log and TensorBoard scalars go to `folder`. `held` is
    what `settings.validation` validates on; `tracker` gets the curve too.

    A run that was killed goes on from its last checkpoint and ends with the same bytes as an
    undisturbed one; `identity` is everything that decides those bytes, as JSON. `before_writing` is
    called in each step, and ends training by what it raises. Raises TrainingError for a loss or
    gradient that is not finite; the last good checkpoint is kept. A `group` of several processes
    takes the same steps on the same batches as one process alone.
    """
    if not len(data):
        raise TrainingError(
            "no training samples: the subset is empty or all its media were rejected"
        )
    run = Training(adapter.train(), new_optimizer(adapter, settings))
    torch.manual_seed(seed)
    schedule = Schedule(settings, len(data))
    checkpoint = folder / CHECKPOINT
    if run.load(checkpoint, identity):
        logger.info("resumed at step %d of %d", run.step, schedule.total)
    group.wait()  # nobody writes a checkpoint before all have read
    started = time.monotonic() - run.seconds
    device = run.device
    multiple = MULTIPLE if device.type == "cuda" else 1
    loading = Lock()  # a validation loads too, while the next batch is on its way

    def load(batch: Batch) -> Any:
        with loading:
            return source.load(batch.media, batch.epoch)

    def loss(
        features: Tensor | None, batch: Batch, smoothing: float = settings.label_smoothing
    ) -> Tensor:
        return answer_loss(llm, adapter, features, batch, smoothing, settings.compute)

    def held_loss(batch: Batch) -> Tensor:
        return loss(source.tokens(load(batch)), batch, smoothing=0.0)

    def clock() -> float:
        return time.monotonic() - started

    def save() -> None:
        if group.leads:
            log.flush()
            run.save(checkpoint, identity)

    validator = None
    if settings.validation is not None and held is not None:
        batches = list(batches_of(held, settings.batch_size, multiple))
        validator = Validator(settings.validation, batches, held_loss, [llm.model], group)
    skip = run.step * settings.accumulate
    stream = batch_stream(data, settings.batch_size, seed, skip, schedule.batches, multiple)
    due = map(group.part, islice(stream, schedule.total * settings.accumulate - skip))
    steps = Steps(llm, run, settings, source, loss, checkpoint, clock, group)
    log = TrainingLog(folder, run.step, tracker) if group.leads else NoLog()
    dropping = in_training_mode([llm.model] if settings.frozen_dropout else [])
    products = float32_products(settings.compute, device)
    tuned, reader = adapter.tuned("llm", llm.body), closing(read_each(due, load))
    with attention_on(device), products, dropping, tuned, log, reader as pairs:
        _take_steps(steps, pairs, schedule, seed, validator, log, before_writing, save)
    adapter.eval()
    if validator is not None:
        validator.settle(adapter, run.best)
    return run


def _take_steps(
    steps: Steps,
    pairs: Iterator[tuple[Batch, Any]],
    schedule: Schedule,
    seed: int,
    validator: Validator | None,
    log: TrainingLog | NoLog,
    before_writing: Callable[[], None],
    save: Callable[[], None],
) -> None:
    """The steps that are left, or fewer if validation ends them. Their numbers are looked at every
    LOOK_SECONDS, and before each validation and each `save`.
    """
    run, settings, total = steps.run, steps.settings, schedule.total
    progress = Progress(total, "train", "step", done=run.step)
    saved = looked = time.monotonic()
    while run.step < total:
        steps.group.seed(seed, run.step)
        steps.take(islice(pairs, settings.accumulate), schedule.rate(run.step))
        before_writing()
        now = time.monotonic()
        saves = now - saved >= settings.checkpoint_seconds and run.step < total
        validates = validator is not None and validator.due(run.step, total)
        looks = now - looked >= LOOK_SECONDS or run.step == total or on_cpu(run.device)
        if not (saves or validates or looks):
            continue
        looked = now
        *taken, last = steps.look()
        if validator is not None and validates:
            last = replace(last, validation=validator(run.adapter, run.step, run.best))
        for one in (*taken, last):
            log.write(one)
            progress.advance(note=f"loss={one.loss:.3f}")
        if validator is not None and validates and validator.ends(run.best):
            logger.info("no better validation since step %d: training ends", run.best.step)
            break
        if saves:
            saved = now
            save()


def on_cpu(device: torch.device) -> bool:
    """Whether numbers are there as soon as they are asked for."""
    return device.type == "cpu"


def new_optimizer(adapter: Adapter, settings: TrainSpec) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        adapter.parameters(),
        settings.lr,
        weight_decay=settings.weight_decay,
        eps=settings.adam_epsilon,
        fused=True,
    )


@contextmanager
def attention_on(device: torch.device) -> Iterator[None]:
    """Attention whose gradients are the same bytes every time, and the fastest of that kind.

    On a CPU the backward pass of the fused kernels is slower than the plain one. On a GPU theirs
    adds in no fixed order, but for FlashAttention's, which can be told to.
    """
    if device.type == "cpu":
        with sdpa_kernel(SDPBackend.MATH):
            yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
            yield
    finally:
        torch.use_deterministic_algorithms(before)
