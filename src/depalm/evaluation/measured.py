"""What a metric says of many samples."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Self

import numpy as np
from numpy.typing import NDArray

References = Mapping[str, Sequence[str]]  # sample id -> reference texts
Predictions = Mapping[str, str]  # sample id -> generated text
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """What a program says of N samples, from 0 to 1 (CIDEr: to 10).

    scores: [parts], of all samples, one for each metric that the program computes.
    samples: [N, parts], of each sample alone.
    counts: [N, C], of which the scores are made once they are added up; None if a score is the mean
        of its samples.
    """

    scores: Sequence[float]
    samples: Values
    counts: Values | None = None

    @classmethod
    def mean(cls, samples: Iterable[float]) -> Self:
        """A score that is the mean of its samples."""
        of = list(samples)
        return cls([fmean(of)], np.array(of, dtype=np.float64)[:, None])
