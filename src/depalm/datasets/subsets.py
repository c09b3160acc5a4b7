"""Parts of a split that are drawn at random, and always the same."""

import hashlib
import re
from collections.abc import Sequence
from fractions import Fraction

from depalm.errors import DepalmError


class ManifestError(DepalmError):
    """An invalid split, fraction or manifest."""


def lowest(ids: Sequence[str], count: int, salt: str) -> list[str]:
    """The `count` ids of lowest salted SHA-256: a random draw that depends on nothing else."""
    return sorted(ids, key=lambda name: hashlib.sha256(f"{salt}{name}".encode()).digest())[:count]


def parse_fraction(text: str) -> Fraction:
    """``10pct`` -> 1/10. Raises ManifestError unless it is a percentage over 0, at most 100."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)pct", text)
    fraction = Fraction(match[1]) / 100 if match else Fraction(0)
    if not 0 < fraction <= 1:
        raise ManifestError(
            f"{text!r} is not a fraction: write a percentage over 0 and up to 100, "
            "such as 100pct, 10pct, 1pct or 0.5pct"
        )
    return fraction


def draw_subset(ids: Sequence[str], fraction: str, seed: int) -> list[str]:
    """The `fraction` (see parse_fraction) of `ids` that `seed` draws, at least one, in their order.

    A smaller fraction of a seed lies within a larger one, whatever the order of `ids` is.
    """
    count = max(1, round(parse_fraction(fraction) * len(ids)))
    kept = set(lowest(ids, count, salt=f"{seed}:"))
    return [name for name in ids if name in kept]
