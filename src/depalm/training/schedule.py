"""The steps of a training, and the rate of each (docs/methods.md#training-and-generation)."""

import math
from dataclasses import dataclass

from depalm.errors import DepalmError
from depalm.specs import TrainSpec


class TrainingError(DepalmError):
    """Training that cannot go on: no samples, or a loss or gradient that is not finite."""


@dataclass(frozen=True)
class Schedule:
    """The steps of a training on `samples` samples.

    Raises TrainingError if the settings give neither steps nor epochs, or drop every batch.
    """

    settings: TrainSpec
    samples: int

    def __post_init__(self) -> None:
        if self.settings.steps is None and self.settings.epochs is None:
            raise TrainingError("train settings need `steps` or `epochs`")
        if self.batches == 0:
            raise TrainingError(
                f"{self.samples} samples make fewer batches than a step takes, and leftovers are "
                "dropped: lower accumulate or batch_size, or set leftovers to use"
            )

    @property
    def all_batches(self) -> int:
        """The batches of an epoch."""
        return math.ceil(self.samples / self.settings.batch_size)

    @property
    def batches(self) -> int:
        """Those of them that are used."""
        dropped = self.all_batches % self.settings.accumulate
        return self.all_batches - (dropped if self.settings.leftovers == "drop" else 0)

    @property
    def total(self) -> int:
        """The optimizer steps."""
        if self.settings.steps is not None:
            return self.settings.steps
        return max(1, round((self.settings.epochs or 0) * self.batches / self.settings.accumulate))

    def rate(self, step: int) -> float:
        """The learning rate of a step (from 0): a linear warm-up, then a cosine down to `final_lr`
        times lr at the last step.
        """
        settings = self.settings
        if settings.schedule == "steps":
            place, total = step, self.total
            warmup = round(settings.warmup * total)
            risen = (place + 1) / max(1, warmup)
        else:
            place, total = self._last_batch(step), self._last_batch(self.total - 1) + 1
            warmup = round(settings.warmup * total)
            risen = settings.final_lr + (1 - settings.final_lr) * place / max(1, warmup)
        if place < warmup:
            return settings.lr * risen
        fallen = (place - warmup) / max(1, total - 1 - warmup)
        cosine = (1 + math.cos(math.pi * fallen)) / 2
        return settings.lr * (settings.final_lr + (1 - settings.final_lr) * cosine)

    def _last_batch(self, step: int) -> int:
        """The place of a step's last batch among all batches of all epochs, dropped ones too."""
        epoch, place = divmod((step + 1) * self.settings.accumulate - 1, self.batches)
        return epoch * self.all_batches + place
