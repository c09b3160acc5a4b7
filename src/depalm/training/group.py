"""The processes that train one adapter together: each takes a part of every batch, and all take the
same steps. One process alone is a group of one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
import torch.distributed
from torch import Tensor, nn

from depalm.files import sha256_json
from depalm.training.batches import IGNORED, Batch

Item = TypeVar("Item")


@dataclass(frozen=True)
class Group:
    """This process is number `rank` of `size`; those of a group of several have called
    `torch.distributed.init_process_group`.

    Losses and gradients are sums over the processes, equal in all of them: what follows from them
    needs no message. Only the first process writes files.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def part(self, batch: Batch) -> Batch:
        """The rows of a batch that this process takes, and their share of its labels.

        Where a batch has fewer rows than there are processes, some take its first row with no
        share, so that they have gradients of the same parameters.
        """
        if self.size == 1:
            return batch
        rows = torch.arange(self.rank, len(batch.media), self.size)  # [B / size]
        idle = not len(rows)
        rows = torch.zeros(1, dtype=torch.int64) if idle else rows
        labels = batch.labels[rows]
        learned = int((labels != IGNORED).sum()) / int((batch.labels != IGNORED).sum())
        return replace(
            batch,
            media=[batch.media[row] for row in rows.tolist()],
            token_ids=batch.token_ids[rows],
            labels=labels,
            texts=None if batch.texts is None else batch.texts[rows],
            share=0.0 if idle else learned,
        )

    def deal(self, items: Sequence[Item]) -> Iterator[tuple[Item, bool]]:
        """The items that this process takes, and whether they count: all processes take equally
        many, some one that another has too.
        """
        for start in range(0, len(items), self.size):
            mine = start + self.rank
            counts = mine < len(items)
            yield items[mine if counts else start], counts

    def seed(self, seed: int, step: int) -> None:
        """Draw the random numbers of a step anew, others in each process: then a checkpoint needs
        those of none of them. Alone, the numbers go on from step to step.
        """
        if self.size > 1:
            torch.manual_seed(int(sha256_json([seed, step, self.rank])[:15], 16))

    def sums(self, numbers: Sequence[float], device: torch.device) -> list[float]:
        """The sum of each number over the processes, which have their tensors on `device`."""
        if self.size == 1:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(values)
        return values.tolist()

    def add_gradients(self, parameters: Sequence[nn.Parameter], losses: Tensor) -> Tensor:
        """Make each gradient its sum over the processes, in one message with `losses` [N], whose
        sums are returned.
        """
        if self.size == 1:
            return losses
        gradients = [p.grad for p in parameters if p.grad is not None]
        parts = [*(gradient.flatten() for gradient in gradients), losses.float()]
        values = torch.cat(parts)
        torch.distributed.all_reduce(values)
        *summed, of_losses = values.split([len(part) for part in parts])
        for gradient, total in zip(gradients, summed, strict=True):
            gradient.copy_(total.view_as(gradient))
        return of_losses

    def wait(self) -> None:
        """Wait for the other processes."""
        if self.size > 1:
            torch.distributed.barrier()


ALONE = Group()
