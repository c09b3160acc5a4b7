"""The number of steps, and the learning rate of each (docs/methods.md#training-and-generation)."""

import math

from depalm.errors import DepalmError
from depalm.specs import TrainSpec


class TrainingError(DepalmError):
    """Training that cannot go on: no samples, or a loss or gradient that is not finite."""


def total_steps(settings: TrainSpec, samples: int) -> int:
    """The optimizer steps of a training on `samples` samples.

    Raises TrainingError if the settings give neither steps nor epochs.
    """
    if settings.steps is not None:
        return settings.steps
    if settings.epochs is None:
        raise TrainingError("train settings need `steps` or `epochs`")
    per_epoch = math.ceil(samples / settings.batch_size) / settings.accumulate
    return max(1, round(settings.epochs * per_epoch))


def learning_rate(settings: TrainSpec, step: int, total: int) -> float:
    """The rate of a step (from 0) of `total`: a linear warm-up that starts at lr / warm-up steps,
    then a cosine down to `final_lr` times lr at the last step.
    """
    warmup = round(settings.warmup * total)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - 1 - warmup)
    return settings.lr * (
        settings.final_lr + (1 - settings.final_lr) * (1 + math.cos(math.pi * progress)) / 2
    )
