"""The learning curve of a training run: train.jsonl and TensorBoard scalars."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from depalm.files import atomic_file, naming
from depalm.training.tracking import Tracker


@dataclass(frozen=True)
class Taken:
    """An optimizer step (from 1): the mean loss of its batches, its learning rate, the gradient's
    norm before it was clipped; the samples, tokens of text and seconds up to it; and the validation
    loss behind it, if there is one.
    """

    step: int
    loss: float
    rate: float
    norm: float
    samples: int
    tokens: int
    seconds: float
    validation: float | None = None


class TrainingLog:
    """train.jsonl and TensorBoard scalars, cut back to the step that training resumes from; and a
    tracker's scalars, if there is one.
    """

    def __init__(self, folder: Path, step: int, tracker: Tracker | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "train.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.is_file() and step else []
        with atomic_file(path) as temporary:
            temporary.write_text("".join(lines[:step]))
        self.path, self.stream = path, path.open("a")
        if not step:
            shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self.last: Taken | None = None
        self.tracker = tracker
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def write(self, taken: Taken) -> None:
        scalars = {"loss": taken.loss, "lr": taken.rate, "grad_norm": taken.norm}
        counts = {
            "samples": taken.samples,
            "tokens": taken.tokens,
            "seconds": round(taken.seconds, 3),
        }
        if taken.validation is not None:
            scalars["validation_loss"] = taken.validation
        with naming(self.path):
            self.stream.write(json.dumps({"step": taken.step, **scalars, **counts}) + "\n")
        if self.last is not None and taken.seconds > self.last.seconds:
            rate = (taken.tokens - self.last.tokens) / (taken.seconds - self.last.seconds)
            scalars["tokens_per_second"] = rate
        self.last = taken
        for name, value in scalars.items():
            self.board.add_scalar(name, value, taken.step)
        if self.tracker is not None:
            self.tracker.log(scalars, step=taken.step)

    def flush(self) -> None:
        with naming(self.path):
            self.stream.flush()
            os.fsync(self.stream.fileno())
            self.board.flush()

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(self, *_: object) -> None:
        with naming(self.path):
            self.stream.close()
            self.board.close()
        if self.tracker is not None:
            self.tracker.finish()


class NoLog:
    """The log of a process that leaves it to another one."""

    def write(self, taken: Taken) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""

    def __enter__(self) -> "NoLog":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing."""
