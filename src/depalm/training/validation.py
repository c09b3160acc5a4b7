"""The loss on samples that are not trained on, the best adapter by it, and an early end."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from depalm.adapters.adapter import Adapter
from depalm.datasets.manifest import Sample, unique_media
from depalm.datasets.subsets import lowest
from depalm.specs import ValidationSpec
from depalm.training.batches import IGNORED, Batch, Text, TrainingSet, collate
from depalm.training.group import ALONE, Group
from depalm.training.schedule import TrainingError


def held_out(samples: Sequence[Sample], spec: ValidationSpec) -> tuple[list[Sample], list[Sample]]:
    """The samples to train on and those to validate on, which share no medium; for every method and
    seed those on the same media.

    Raises TrainingError if there are not two media.
    """
    media = unique_media(samples)
    if len(media) < 2:
        raise TrainingError("one medium is too few to hold some out for validation")
    count = min(len(media) - 1, max(1, round(spec.part * len(media))))
    chosen = set(lowest(media, count, salt="validation:"))
    held = [sample for sample in samples if sample.media in chosen]
    ids = [sample.id for sample in held]
    kept = set(lowest(ids, min(spec.rows, len(ids)), salt="validation:"))
    return (
        [sample for sample in samples if sample.media not in chosen],
        [sample for sample in held if sample.id in kept],
    )


def batches_of(data: TrainingSet, batch_size: int, multiple: int) -> Iterator[Batch]:
    """The samples in batches by length, each with the reference that most of its references are."""
    rows: list[list[Text]] = []
    for sample, texts in enumerate(data.texts):
        counts = [texts.count(text) for text in texts]
        rows.append([(sample, counts.index(max(counts)))])
    rows.sort(key=data.length)
    for start in range(0, len(rows), batch_size):
        yield collate(data, rows[start : start + batch_size], 0, multiple)


@dataclass
class Best:
    """The best adapter so far: its loss, the step it is of, its tensors on the CPU; and how many
    validations since were not better.
    """

    loss: float = math.inf
    step: int = 0
    since: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def take(self, loss: float, step: int, adapter: Adapter) -> None:
        """Look at a validation."""
        if loss < self.loss:
            tensors = adapter.state_dict()
            self.tensors = {name: t.detach().cpu().clone() for name, t in tensors.items()}
            self.loss, self.step, self.since = loss, step, 0
        else:
            self.since += 1

    @property
    def progress(self) -> dict[str, Any]:
        return {"loss": self.loss, "step": self.step, "since": self.since}

    @classmethod
    def of(cls, progress: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Best":
        return cls(**progress, tensors=dict(tensors))


class Validator:
    """Validates as `spec` says on `batches`; `loss` gives the mean loss of a batch's learned
    tokens, and `frozen` are the models beside the adapter. `group` are the processes that share
    the batches.
    """

    def __init__(
        self,
        spec: ValidationSpec,
        batches: Sequence[Batch],
        loss: Callable[[Batch], Tensor],
        frozen: Sequence[nn.Module],
        group: Group = ALONE,
    ):
        self.spec, self.batches, self.loss, self.frozen = spec, batches, loss, frozen
        self.group = group

    def due(self, step: int, total: int) -> bool:
        return step % self.spec.every == 0 or step == total

    def __call__(self, adapter: Adapter, step: int, best: Best) -> float:
        """Mean loss of a learned token, with all models in evaluation mode; `best` looks at it.

        What a backbone in the loop gives is that of the first epoch. Raises TrainingError for a
        loss that is not finite.
        """
        total, count = 0.0, 0.0
        with ExitStack() as modes, torch.no_grad():
            for module in (adapter, *self.frozen):
                if module.training:
                    modes.callback(module.train)
                    module.eval()
            for batch, counts in self.group.deal(self.batches):
                tokens = int((batch.labels != IGNORED).sum()) * counts
                total += float(self.loss(batch)) * tokens
                count += tokens
        total, count = self.group.sums([total, count], next(adapter.parameters()).device)
        mean = total / count
        if not math.isfinite(mean):
            raise TrainingError(
                f"step {step}: the validation loss is {mean}: lower lr or clip_norm"
            )
        best.take(mean, step, adapter)
        return mean

    def ends(self, best: Best) -> bool:
        """Whether training has not got better for long enough to end."""
        return self.spec.patience is not None and best.since >= self.spec.patience

    def settle(self, adapter: Adapter, best: Best) -> None:
        """Give the adapter the tensors that are kept."""
        if self.spec.keep == "best" and best.tensors:
            adapter.load_state_dict(best.tensors)
