"""Training of an adapter on a backbone's tokens, against a frozen LLM
(docs/methods.md#training-and-generation).
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from depalm.adapters.adapter import Adapter
from depalm.adapters.diagnosis import cause
from depalm.features.base import FeatureSource, read_each
from depalm.llms.base import LLM
from depalm.llms.injection import hidden_states
from depalm.modes import in_training_mode
from depalm.progress import Progress, logger
from depalm.specs import TrainSpec
from depalm.training.batches import IGNORED, Batch, TrainingSet, batch_stream
from depalm.training.log import TrainingLog
from depalm.training.schedule import Schedule, TrainingError
from depalm.training.state import CHECKPOINT, Training


def answer_loss(
    llm: LLM, adapter: Adapter, features: Tensor | None, batch: Batch, smoothing: float
) -> Tensor:
    """Mean cross entropy over the answers' tokens and EOS; logits are computed at those positions
    alone.
    """
    device = next(llm.model.parameters()).device
    token_ids, labels = batch.token_ids.to(device), batch.labels.to(device)
    hidden = hidden_states(llm, token_ids, adapter(features))  # [B, S, D]
    labelled = labels != IGNORED  # [B, S]
    logits = llm.head(hidden[labelled]).float()  # [labels, V]
    return torch.nn.functional.cross_entropy(logits, labels[labelled], label_smoothing=smoothing)


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
) -> Training:
    """Train `adapter` on `data`; checkpoints, log and TensorBoard scalars go to `folder`.

    A run that was killed goes on from its last checkpoint and ends with the same bytes as an
    undisturbed one; `identity` is everything that decides those bytes, as JSON. `before_writing` is
    called in each step, and ends training by what it raises. Raises TrainingError for a loss or
    gradient that is not finite; the last good checkpoint is kept.
    """
    if not len(data):
        raise TrainingError(
            "no training samples: the subset is empty or all its media were rejected"
        )
    run = Training(adapter.train(), new_optimizer(adapter, settings))
    torch.manual_seed(seed)
    schedule = Schedule(settings, len(data))
    total = schedule.total
    checkpoint = folder / CHECKPOINT
    if run.load(checkpoint, identity):
        logger.info("resumed at step %d of %d", run.step, total)
    started = saved = time.monotonic()
    earlier = run.seconds
    progress = Progress(total, "train", "step", done=run.step)
    skip = run.step * settings.accumulate
    batches = batch_stream(data, settings.batch_size, seed, skip, schedule.batches)
    due = islice(batches, (total - run.step) * settings.accumulate)
    device = next(adapter.parameters()).device

    def read(batch: Batch) -> Tensor | None:
        return source.read(batch.media, batch.epoch)

    reader = closing(read_each(due, read, ahead=source.read_ahead))
    step = Step(llm, run, settings, read, checkpoint)
    tuned, log = adapter.tuned("llm", llm.body), TrainingLog(folder, run.step)
    dropping = in_training_mode([llm.model] if settings.frozen_dropout else [])
    with attention_on(device), dropping, tuned, log, reader as pairs:
        while run.step < total:
            rate = schedule.rate(run.step)
            norm = step.take(islice(pairs, settings.accumulate), rate)
            before_writing()
            now = time.monotonic()
            run.seconds = earlier + now - started
            log.write(run, {"loss": run.loss, "lr": rate, "grad_norm": norm})
            progress.advance(note=f"loss={run.loss:.3f}")
            if now - saved >= settings.checkpoint_seconds and run.step < total:
                log.flush()
                run.save(checkpoint, identity)
                saved = now
    adapter.eval()
    return run


def new_optimizer(adapter: Adapter, settings: TrainSpec) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        adapter.parameters(),
        settings.lr,
        weight_decay=settings.weight_decay,
        eps=settings.adam_epsilon,
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


@dataclass(frozen=True)
class Step:
    """An optimizer step of `run`; `read` gives the features of a batch, once more if they must be
    looked at.
    """

    llm: LLM
    run: Training
    settings: TrainSpec
    read: Callable[[Batch], Tensor | None]
    checkpoint: Path

    def take(self, pairs: Iterable[tuple[Batch, Tensor | None]], rate: float) -> float:
        """One step at the learning `rate` on batches and their features; the gradient's norm
        before it is clipped.

        Raises TrainingError, with the adapter as it was, for a loss or gradient that is not finite.
        """
        run, settings = self.run, self.settings
        used, losses = [], []
        for batch, features in pairs:
            losses.append(self._backward(batch, features))
            used.append(batch)
        loss = torch.stack(losses).mean().item()
        parameters = run.adapter.parameters()
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm).item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            bad = [not value.isfinite() for value in losses]
            batch = used[bad.index(True) if any(bad) else -1]
            raise TrainingError(
                f"step {run.step}: loss {loss}, gradient norm {norm}: {self._why(batch)}"
            )
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        run.step, run.loss = run.step + 1, loss
        run.samples += sum(len(batch.media) for batch in used)
        return norm

    def _backward(self, batch: Batch, features: Tensor | None) -> Tensor:
        """Add the gradient of a batch's share in the step; the batch's loss."""
        settings = self.settings
        loss = answer_loss(self.llm, self.run.adapter, features, batch, settings.label_smoothing)
        share = settings.accumulate if settings.accumulation == "mean" else 1
        (loss / share).backward()
        return loss.detach()

    def _why(self, batch: Batch) -> str:
        """Why the numbers of `batch` are not finite, and what there is to go on from."""
        features = self.read(batch)
        why = cause(self.llm, self.run.adapter, features, batch.media) or "lower lr or clip_norm"
        there = self.checkpoint.exists()
        return f"{why}. The last good checkpoint is {self.checkpoint}" if there else why
