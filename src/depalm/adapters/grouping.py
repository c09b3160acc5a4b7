"""How a resampler's patches are grouped, and how many tokens come out: arithmetic alone
(docs/methods.md#resamplers).
"""

import math
from collections.abc import Sequence

from depalm.adapters.errors import ConnectorError
from depalm.adapters.registry import RESAMPLERS
from depalm.specs.method import MapperResampler, OtherResampler, ResamplerSpec, SubsetResampler

Grid = Sequence[int] | None


def grouping(patches: int, factor: int, grid: Grid = None) -> tuple[int, int, int, int] | None:
    """(frames, rows, columns, side of a square) of patches that are grouped in squares: those on a
    `grid` of [rows, columns] or [frames, rows, columns], by a `factor` that is a square number.

    Without a `grid`, as many patches as a square has are taken for one. None is for runs of
    neighbours: patches that are a sequence, or another factor. Raises ConnectorError if the patches
    cannot be grouped without a rest.
    """
    side, square = math.isqrt(patches), math.isqrt(factor)
    if grid is None and side * side == patches and side > 1:
        grid = (side, side)
    if grid is not None and math.prod(grid) != patches:
        raise ConnectorError(f"a grid of {_by(grid)} patches has not {patches} of them")
    if grid is not None and len(grid) > 1 and square * square == factor:
        *frames, rows, columns = grid
        if rows % square or columns % square:
            raise ConnectorError(
                f"a grid of {rows}x{columns} patches is not divisible by groups of "
                f"{square}x{square}"
            )
        return math.prod(frames), rows, columns, square
    if patches % factor:
        raise ConnectorError(f"{patches} patches are not divisible by groups of {factor}")
    return None


def grouped(tokens: int, factor: int, cls: str, grid: Grid = None) -> int:
    """The tokens that come out of groups of `factor` patches: one of each, and CLS unless it is
    dropped. Raises ConnectorError if there are no patches, or as `grouping`.
    """
    if tokens < 2:
        raise ConnectorError("there are no patches to resample, just CLS")
    grouping(tokens - 1, factor, grid)
    return (tokens - 1) // factor + (cls != "drop")


def resampled(spec: ResamplerSpec, width: int, tokens: int, grid: Grid) -> int:
    """The tokens that a resampler makes, in evaluation, of `tokens` of `width` (CLS counted).

    Raises ConnectorError if they do not fit it. A resampler that somebody has registered is asked
    itself; that takes torch.
    """
    if isinstance(spec, OtherResampler):
        return _asked(spec, width, tokens, grid)
    if isinstance(spec, SubsetResampler):
        return tokens - (spec.cls == "drop")
    if isinstance(spec, MapperResampler):
        check_heads(width, spec.heads, spec.positions)
    return grouped(tokens, spec.factor, spec.cls, grid)


def _asked(spec: OtherResampler, width: int, tokens: int, grid: Grid) -> int:
    import torch

    with torch.device("meta"):
        return RESAMPLERS[spec.type](width, tokens, grid, **(spec.model_extra or {})).count


def check_heads(width: int, heads: int, positions: str) -> None:
    """Raise ConnectorError unless the heads of a mapper divide its width."""
    if width % heads:
        raise ConnectorError(f"mapper width {width} is not divisible by its {heads} heads")
    if positions == "rotary" and (width // heads) % 2:
        raise ConnectorError(f"rotary positions need an even head width, not {width // heads}")


def _by(extents: Sequence[int]) -> str:
    return "x".join(map(str, extents))
