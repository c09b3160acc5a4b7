"""Resamplers: fewer tokens from many, keeping their arrangement (docs/methods.md#resamplers).

The CLS token is set apart, the P patches are put into groups of `factor` neighbours (squares on a
grid, for a video in each frame; runs of neighbours in a sequence), each group becomes one token,
and CLS stands in front again.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from depalm.adapters.errors import ConnectorError
from depalm.adapters.grouping import grouped, grouping
from depalm.adapters.qp_mapper import QPMapper

CLS = ("keep", "drop", "duplicate")


class Resampler(nn.Module, ABC):
    """[B, 1 + P, D] -> [B, count, D], CLS first.

    cls: "keep"; "drop"; or "duplicate": CLS repeated to a group of its own is reduced like the
    others.
    """

    def __init__(
        self,
        width: int,
        tokens: int,
        grid: Sequence[int] | None = None,
        factor: int = 4,
        cls: str = "keep",
    ):
        super().__init__()
        if cls not in CLS:
            raise ConnectorError(f"cls is one of {CLS}, not {cls!r}")
        self.width, self.factor, self.cls = width, factor, cls
        self.count = grouped(tokens, factor, cls, grid)
        self.grid = grouping(tokens - 1, factor, grid)

    def forward(self, tokens: Tensor) -> Tensor:
        cls, patches = tokens[:, :1], tokens[:, 1:]
        groups = self.group(patches)  # [B, G, factor, D]
        if self.cls == "duplicate":
            own = cls[:, :, None].expand(-1, -1, self.factor, -1)
            return self.reduce(torch.cat((own, groups), dim=1))
        reduced = self.reduce(groups)  # [B, G, D]
        return reduced if self.cls == "drop" else torch.cat((cls, reduced), dim=1)

    def group(self, patches: Tensor) -> Tensor:
        """[B, P, D] -> [B, P / factor, factor, D]."""
        if self.grid is None:
            return patches.unflatten(1, (-1, self.factor))
        frames, rows, columns, side = self.grid
        cells = patches.unflatten(1, (frames * rows // side, side, columns // side, side))
        # [B, rows, in row, columns, in column, D] -> [B, rows, columns, in row, in column, D]
        return cells.transpose(2, 3).flatten(3, 4).flatten(1, 2)

    @abstractmethod
    def reduce(self, groups: Tensor) -> Tensor:
        """[B, G, factor, D] -> [B, G, D]."""


class Average(Resampler):
    """The mean of each group. `fidelity: released` is the released code's slip: it pools
    neighbouring
    channels of the four tokens laid side by side, not the four tokens (docs/methods.md#faults).
    """

    def __init__(
        self,
        width: int,
        tokens: int,
        grid: Sequence[int] | None = None,
        factor: int = 4,
        cls: str = "keep",
        fidelity: str = "corrected",
    ):
        super().__init__(width, tokens, grid, factor, cls)
        self.released = fidelity == "released"

    def reduce(self, groups: Tensor) -> Tensor:
        if self.released:
            return groups.flatten(2).unflatten(2, (self.width, self.factor)).mean(dim=3)
        return groups.mean(dim=2)


class Maximum(Resampler):
    """The largest value of each channel in each group."""

    def reduce(self, groups: Tensor) -> Tensor:
        return groups.amax(dim=2)


class LinearReduction(Resampler):
    """A Linear over the concatenated tokens of each group."""

    def __init__(
        self,
        width: int,
        tokens: int,
        grid: Sequence[int] | None = None,
        factor: int = 4,
        cls: str = "keep",
    ):
        super().__init__(width, tokens, grid, factor, cls)
        self.linear = nn.Linear(factor * width, width)

    def reduce(self, groups: Tensor) -> Tensor:
        return self.linear(groups.flatten(2))


class Convolution(Resampler):
    """An overlapping convolution, in each frame: kernel 2 s + 1 and stride s = sqrt(factor) on a
    grid, else `factor`.
    """

    def __init__(
        self,
        width: int,
        tokens: int,
        grid: Sequence[int] | None = None,
        factor: int = 4,
        cls: str = "keep",
    ):
        if cls == "duplicate":
            raise ConnectorError("a convolution has neighbours, not groups: cls is keep or drop")
        super().__init__(width, tokens, grid, factor, cls)
        stride = factor if self.grid is None else self.grid[3]
        kind = nn.Conv1d if self.grid is None else nn.Conv2d
        self.convolution = kind(width, width, 2 * stride + 1, stride, padding=stride)

    def group(self, patches: Tensor) -> Tensor:
        """[B, P, D] -> [B, frames, D, P] or [B, frames, D, rows, columns]: a convolution does its
        own grouping.
        """
        frames, *extents = (1, -1) if self.grid is None else self.grid[:3]
        return patches.unflatten(1, (frames, *extents)).movedim(-1, 2)

    def reduce(self, groups: Tensor) -> Tensor:
        output: Tensor = self.convolution(groups.flatten(0, 1))  # [B frames, D, ...]
        # with this padding the outputs are centred on the groups' first tokens: exactly G of them
        tokens = output.flatten(2).transpose(1, 2).unflatten(0, groups.shape[:2])
        return tokens.flatten(1, 2)


class MapperReduction(Resampler):
    """A QPMapper of `layers` layers and further options, with one query, over each group
    (`R-QPMapper`).
    """

    def __init__(
        self,
        width: int,
        tokens: int,
        grid: Sequence[int] | None = None,
        factor: int = 4,
        cls: str = "keep",
        layers: int = 4,
        **mapper: Any,
    ):
        super().__init__(width, tokens, grid, factor, cls)
        self.mapper = QPMapper(width, factor, layers, queries=1, **mapper)

    def reduce(self, groups: Tensor) -> Tensor:
        flat = groups.flatten(0, 1)  # [B G, factor, D]
        return self.mapper(flat).view(*groups.shape[:2], -1)


class RandomPatch(Resampler):
    """One patch of each group, drawn anew for every batch in training, the first in evaluation."""

    def reduce(self, groups: Tensor) -> Tensor:
        if not self.training:
            return groups[:, :, 0]
        count, factor = groups.shape[1:3]
        chosen = torch.randint(factor, (count,), device=groups.device)
        return groups[:, torch.arange(count, device=groups.device), chosen]


class RandomSubset(nn.Module):
    """A random subset of the patches, in their order (`R-rand`); all of them in evaluation.

    One fraction is drawn for each batch: N(0.25, 0.2) clipped to [0.0625, 0.5], and 0.5 with
    probability 0.1.
    """

    def __init__(
        self,
        width: int,  # noqa: ARG002
        tokens: int,
        grid: Sequence[int] | None = None,  # noqa: ARG002
        mean: float = 0.25,
        std: float = 0.2,
        smallest: float = 0.0625,
        largest: float = 0.5,
        largest_probability: float = 0.1,
        cls: str = "keep",
    ):
        super().__init__()
        if cls not in CLS[:2]:
            raise ConnectorError(f"a random subset has no groups: cls is keep or drop, not {cls!r}")
        self.mean, self.std, self.smallest, self.largest = mean, std, smallest, largest
        self.largest_probability, self.cls = largest_probability, cls
        self.count = tokens - (cls == "drop")

    def forward(self, tokens: Tensor) -> Tensor:
        first = 1 if self.cls == "drop" else 0
        if not self.training:
            return tokens[:, first:]
        patches = tokens.shape[1] - 1
        fraction = min(
            max(self.mean + self.std * torch.randn(()).item(), self.smallest), self.largest
        )
        if torch.rand(()).item() < self.largest_probability:
            fraction = self.largest
        kept = torch.randperm(patches)[: max(1, round(fraction * patches))].sort().values + 1
        if self.cls == "keep":
            kept = torch.cat((torch.zeros(1, dtype=kept.dtype), kept))
        return tokens[:, kept.to(tokens.device)]
