"""Training of an adapter on a backbone's tokens, against a frozen LLM (METHODS, "Training and
generation").
"""

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.tensorboard import SummaryWriter

from depalm.adapters.adapter import Adapter
from depalm.adapters.diagnosis import cause
from depalm.errors import DepalmError
from depalm.features.base import FeatureSource, read_each
from depalm.files import atomic_file
from depalm.llms.base import LLM
from depalm.llms.injection import hidden_states
from depalm.progress import Progress, logger
from depalm.training.batches import IGNORED, Batch, TrainingSet, batch_stream

CHECKPOINT = "checkpoint.safetensors"


class TrainingError(DepalmError):
    """Training that cannot go on: no samples, or a loss or gradient that is not finite."""


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of a run; exactly one of `steps` (optimizer steps) and `epochs` is given.

    `batch_size` samples go through the LLM at a time, `accumulate` of them make one step.
    `warmup` is a fraction of the steps, `final_lr` a fraction of `lr`. `init_from` is the folder of
    an adapter (adapter.safetensors, adapter.json) that training starts from. `augment` changes
    every file anew in each epoch where features are not cached.
    """

    batch_size: int
    lr: float
    steps: int | None = None
    epochs: float | None = None
    accumulate: int = 1
    weight_decay: float = 0.1
    adam_epsilon: float = 1e-4
    warmup: float = 0.2
    final_lr: float = 1e-4
    clip_norm: float = 0.8
    label_smoothing: float = 2e-3
    max_answer_tokens: int = 50
    dtype: str = "bfloat16"
    checkpoint_seconds: float = 300.0
    init_from: str | None = None
    augment: bool = True

    def total_steps(self, samples: int) -> int:
        if self.steps is not None:
            return self.steps
        if self.epochs is None:
            raise TrainingError("train settings need `steps` or `epochs`")
        per_epoch = math.ceil(samples / self.batch_size) / self.accumulate
        return max(1, round(self.epochs * per_epoch))

    def learning_rate(self, step: int, total: int) -> float:
        """Linear warm-up from lr / warm-up steps, then a cosine down to `final_lr` of it at the
        last step.
        """
        warmup = round(self.warmup * total)
        if step < warmup:
            return self.lr * (step + 1) / warmup
        progress = (step - warmup) / max(1, total - 1 - warmup)
        return self.lr * (
            self.final_lr + (1 - self.final_lr) * (1 + math.cos(math.pi * progress)) / 2
        )


@dataclass
class Training:
    """A run in progress: what a checkpoint holds."""

    adapter: Adapter
    optimizer: torch.optim.AdamW
    step: int = 0
    seconds: float = 0.0
    samples: int = 0
    loss: float = math.nan

    def tensors(self) -> dict[str, Tensor]:
        """Adapter, optimizer moments and random states, by name."""
        tensors = {f"adapter.{name}": value for name, value in self.adapter.state_dict().items()}
        for name, parameter in self.adapter.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{name}.{key}"] = value
        tensors["random.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        return tensors

    def save(self, path: Path, identity: str) -> None:
        """Write a checkpoint to `path`; the one that was there is kept as the one before."""
        progress = {
            "step": self.step,
            "seconds": self.seconds,
            "samples": self.samples,
            "loss": self.loss,
        }
        tensors = {
            name: value.detach().cpu().contiguous() for name, value in self.tensors().items()
        }
        metadata = {
            "identity": identity,
            "progress": json.dumps(progress),
            "sha256": sha256_tensors(tensors),
        }
        with atomic_file(path) as temporary:
            save_file(tensors, temporary, metadata)
            if path.exists():
                path.replace(one_before(path))

    def load(self, path: Path, identity: str) -> bool:
        """Go on from the checkpoint at `path`, or from the one before if that is damaged; False if
        there is none of a run of the same `identity`.
        """
        for candidate in (path, one_before(path)):
            if not candidate.is_file():
                continue
            try:
                tensors, metadata = read_checkpoint(candidate)
            except CheckpointError as error:
                logger.warning("%s: going on from an older one, or from the start", error)
                continue
            if metadata["identity"] != identity:
                logger.info("%s belongs to other settings or inputs: not used", candidate)
                continue
            self._restore(tensors, json.loads(metadata["progress"]))
            return True
        return False

    def _restore(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        self.adapter.load_state_dict(_under(tensors, "adapter."))
        for name, parameter in self.adapter.named_parameters():
            state = _under(tensors, f"optimizer.{name}.")
            moments = {k: v if k == "step" else v.to(parameter.device) for k, v in state.items()}
            self.optimizer.state[parameter] = moments
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"])
        self.step, self.seconds = progress["step"], progress["seconds"]
        self.samples, self.loss = progress["samples"], progress["loss"]


class CheckpointError(DepalmError):
    """A checkpoint of training that is damaged."""


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a checkpoint and its metadata. Raises CheckpointError."""
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"the checkpoint {path} is damaged ({error})") from error
    if metadata.get("sha256") != sha256_tensors(tensors):
        raise CheckpointError(f"the checkpoint {path} is damaged (its SHA-256 is another)")
    return tensors, metadata


def sha256_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names and bytes of tensors on the CPU, in name order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}\0".encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def remove_checkpoints(folder: Path) -> None:
    """Remove what training keeps in `folder` to go on from, once the adapter is whole."""
    for path in (folder / CHECKPOINT, one_before(folder / CHECKPOINT)):
        path.unlink(missing_ok=True)


def one_before(path: Path) -> Path:
    """Where the checkpoint is that was at `path` before."""
    return path.with_name(f"{path.stem}.before{path.suffix}")


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


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
    settings: Settings,
    seed: int,
    folder: Path,
    identity: str,
    before_writing: Callable[[], None] = lambda: None,
) -> Training:
    """Train `adapter` on `data`; checkpoints, log and TensorBoard scalars go to `folder`.

    A run that was killed goes on from its last checkpoint and ends with the same bytes as an
    undisturbed one; `identity` stands for everything that decides those bytes. `before_writing` is
    called in each step, and ends training by what it raises. Raises TrainingError for a loss or
    gradient that is not finite; the last good checkpoint is kept.
    """
    if not len(data):
        raise TrainingError(
            "no training samples: the subset is empty or all its media were rejected"
        )
    device = next(adapter.parameters()).device
    optimizer = torch.optim.AdamW(
        adapter.parameters(),
        settings.lr,
        weight_decay=settings.weight_decay,
        eps=settings.adam_epsilon,
    )
    run = Training(adapter.train(), optimizer)
    torch.manual_seed(seed)
    total = settings.total_steps(len(data))
    checkpoint = folder / CHECKPOINT
    if run.load(checkpoint, identity):
        logger.info("resumed at step %d of %d", run.step, total)
    started = saved = time.monotonic()
    earlier = run.seconds
    progress = Progress(total, "train", "step", done=run.step)
    batches = batch_stream(data, settings.batch_size, seed, skip=run.step * settings.accumulate)
    due = islice(batches, (total - run.step) * settings.accumulate)

    def read(batch: Batch) -> Tensor | None:
        return source.read(batch.media, batch.epoch)

    reader = closing(read_each(due, read, ahead=source.read_ahead))
    # on CPU, fused attention's backward pass takes longer than plain attention's
    attention = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
    with attention, adapter.tuned("llm", llm.body), _Log(folder, run.step) as log, reader as pairs:
        while run.step < total:
            rate = settings.learning_rate(run.step, total)
            losses, used = [], []
            for _ in range(settings.accumulate):
                batch, features = next(pairs)
                loss = answer_loss(llm, adapter, features, batch, settings.label_smoothing)
                (loss / settings.accumulate).backward()
                losses.append(loss.detach())
                used.append(batch)
                run.samples += len(batch.media)
            loss_value = torch.stack(losses).mean().item()
            norm = torch.nn.utils.clip_grad_norm_(adapter.parameters(), settings.clip_norm).item()
            if not (math.isfinite(loss_value) and math.isfinite(norm)):
                bad = [not loss.isfinite() for loss in losses]
                batch = used[bad.index(True) if any(bad) else -1]
                why = cause(llm, adapter, read(batch), batch.media) or "lower lr or clip_norm"
                kept = f". The last good checkpoint is {checkpoint}" if checkpoint.exists() else ""
                raise TrainingError(
                    f"step {run.step}: loss {loss_value}, gradient norm {norm}: {why}{kept}"
                )
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            run.step, run.loss = run.step + 1, loss_value
            before_writing()
            now = time.monotonic()
            run.seconds = earlier + now - started
            log.write(run, {"loss": loss_value, "lr": rate, "grad_norm": norm})
            progress.advance(note=f"loss={loss_value:.3f}")
            if now - saved >= settings.checkpoint_seconds and run.step < total:
                log.flush()
                run.save(checkpoint, identity)
                saved = now
    adapter.eval()
    return run


class _Log:
    """train.jsonl and TensorBoard scalars, cut back to the step that training resumes from."""

    def __init__(self, folder: Path, step: int):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "train.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.is_file() and step else []
        with atomic_file(path) as temporary:
            temporary.write_text("".join(lines[:step]))
        self.stream = path.open("a")
        if not step:
            shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def write(self, run: Training, scalars: Mapping[str, float]) -> None:
        line = {
            "step": run.step,
            **scalars,
            "samples": run.samples,
            "seconds": round(run.seconds, 3),
        }
        self.stream.write(json.dumps(line) + "\n")
        for name, value in scalars.items():
            self.board.add_scalar(name, value, run.step)

    def flush(self) -> None:
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.board.flush()

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()
        self.board.close()
