"""An optimizer step, without waiting for its numbers."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from depalm.adapters.diagnosis import cause
from depalm.features.base import FeatureSource, read
from depalm.llms.base import LLM
from depalm.specs import TrainSpec
from depalm.training.batches import Batch
from depalm.training.group import ALONE, Group
from depalm.training.log import Taken
from depalm.training.schedule import TrainingError
from depalm.training.state import Training

Loss = Callable[[Tensor | None, Batch], Tensor]


@dataclass(frozen=True)
class _Pending:
    """A step whose numbers lie on the device: the losses of its batches, and the gradient's norm
    before it was clipped.
    """

    step: int
    rate: float
    samples: int
    tokens: int
    seconds: float
    batches: list[Batch]
    numbers: Tensor  # [batches + 1]


class Steps:
    """The optimizer steps of `run`; `source` gives the features of a batch, `loss` its loss, and
    `clock` the seconds that training has taken. `group` are the processes that take them together.

    A step is given to the device and not waited for. If its loss or gradient is not finite, neither
    it nor any step behind it changes the adapter or the optimizer.
    """

    def __init__(
        self,
        llm: LLM,
        run: Training,
        settings: TrainSpec,
        source: FeatureSource,
        loss: Loss,
        checkpoint: Path,
        clock: Callable[[], float],
        group: Group = ALONE,
    ):
        self.llm, self.run, self.settings = llm, run, settings
        self.source, self.loss, self.checkpoint = source, loss, checkpoint
        self.clock, self.group = clock, group
        self.parameters = list(run.adapter.parameters())
        self.pending: list[_Pending] = []
        self.failed = torch.zeros((), device=run.device)
        # the fused step reads it on the device, as a gradient scaler would have it
        run.optimizer.found_inf = self.failed  # type: ignore[attr-defined]

    def take(self, pairs: Iterable[tuple[Batch, Any]], rate: float) -> None:
        """One step at the learning `rate` on batches and what was loaded of their features."""
        run, settings = self.run, self.settings
        used, losses = [], []
        for batch, loaded in pairs:
            loss = self.loss(self.source.tokens(loaded), batch)
            if self.group.size > 1:  # the batch's loss is the sum of its parts'
                loss = loss * batch.share
            share = settings.accumulate if settings.accumulation == "mean" else 1
            (loss / share).backward()
            losses.append(loss.detach())
            used.append(batch)
        summed = self.group.add_gradients(self.parameters, torch.stack(losses))
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, settings.clip_norm)
        numbers = torch.cat([summed, norm[None]])
        torch.maximum(self.failed, (~numbers.isfinite()).any().float(), out=self.failed)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        run.step, run.seconds = run.step + 1, self.clock()
        run.samples += sum(batch.samples for batch in used)
        run.tokens += sum(batch.tokens for batch in used)
        counts = (run.samples, run.tokens, run.seconds)
        self.pending.append(_Pending(run.step, rate, *counts, used, numbers))

    def look(self) -> list[Taken]:
        """Read the numbers of the steps since the last look.

        Raises TrainingError, with the adapter as it was, for the first of them whose loss or
        gradient is not finite.
        """
        numbers = torch.stack([pending.numbers for pending in self.pending]).tolist()
        looked = []
        for pending, (*losses, norm) in zip(self.pending, numbers, strict=True):
            loss = sum(losses) / len(losses)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                bad = [not math.isfinite(value) for value in losses]
                batch = pending.batches[bad.index(True) if any(bad) else -1]
                raise TrainingError(
                    f"step {pending.step - 1}: loss {loss}, gradient norm {norm}: "
                    f"{self._why(batch)}"
                )
            counts = (pending.samples, pending.tokens, pending.seconds)
            looked.append(Taken(pending.step, loss, pending.rate, norm, *counts))
        self.run.loss = looked[-1].loss
        self.pending.clear()
        return looked

    def _why(self, batch: Batch) -> str:
        """Why the numbers of `batch` are not finite, and what there is to go on from."""
        features = read(self.source, batch.media, batch.epoch)
        why = cause(self.llm, self.run.adapter, features, batch.media) or "lower lr or clip_norm"
        there = self.checkpoint.exists()
        return f"{why}. The last good checkpoint is {self.checkpoint}" if there else why
