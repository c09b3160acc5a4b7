"""Which methods differ: intervals and paired tests over seeds and samples
(docs/methods.md#statistics).

R rows, the methods, are compared on the same N samples, each with the scores of its seeds [k, N].
Legend: R rows, N samples, k seeds of a row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from string import ascii_lowercase

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from depalm.evaluation.measured import Values

Flags = NDArray[np.bool_]
LEVEL = 0.05  # of all wrong differences of a column together
POWER = 0.8
MOST_SEEDS = 1000
MANY = 1e9


def contributions(values: Values, of_sums: Callable[[Values], Values] | None) -> Values:
    """The part of each sample in a score in percent [N], whose mean the score is.

    It is the sample's own score if `values` are [N]. Of a score that is made of the sums of counts
    [N, C] it is the jackknife's pseudo-value, N times the score less N - 1 times the score without
    the sample (Efron 1982, chapter 2).
    """
    if of_sums is None:
        return values
    sums, count = values.sum(axis=0), len(values)
    whole, without = of_sums(sums), of_sums(sums - values)
    return np.asarray(100 * (count * whole - (count - 1) * without))


@dataclass(frozen=True)
class Spread:
    """The means of R rows on the same N samples, and what they vary by: over new seeds and over new
    samples. A row that is missing is NaN.

    The variance of a mean is `seeds` + that of `profile` over N - `both`: seeds and samples each
    hold what is of both (two-way random effects; Cornfield and Tukey 1956).
    """

    means: Values  # [R]
    profile: Values  # [R, N], means over seeds
    seeds: Values  # [R], NaN for a row with one seed
    freedom: Values  # [R], of `seeds`
    both: Values  # [R]

    @classmethod
    def of(cls, rows: Sequence[Values | None], means: Sequence[float | None]) -> "Spread":
        """The spread of what samples contribute [k, N] in each row, if it is there; `means` are the
        scores as they are printed, of which those are parts.
        """
        size = next(row.shape[1] for row in rows if row is not None)
        missing = np.full((1, size), np.nan)
        there = [missing if row is None else row for row in rows]
        profile = np.array([row.mean(axis=0) for row in there])
        seeds, both = [], []
        for row, over_seeds in zip(there, profile, strict=True):
            count, by_seed = len(row), row.mean(axis=1)
            if count == 1:
                seeds.append(np.nan)
                both.append(0.0)
                continue
            rest = row - by_seed[:, None] - over_seeds + row.mean()  # [k, N]
            square = (rest**2).sum() / ((count - 1) * max(size - 1, 1))
            seeds.append(by_seed.var(ddof=1) / count)
            both.append(square / (count * size))
        freedom = np.array([len(row) - 1 for row in there], dtype=np.float64)
        known = np.array([np.nan if mean is None else mean for mean in means])
        return cls(known, profile, np.array(seeds), freedom, np.array(both))

    @classmethod
    def total(cls, spreads: Sequence["Spread"], weights: Sequence[float]) -> "Spread":
        """The spread of a weighted sum of scores on the same samples, by seeds of their own."""
        pairs = list(zip(spreads, weights, strict=True))
        parts = [weight**2 * spread.seeds for spread, weight in pairs]
        seeds = np.sum(parts, axis=0)
        square = np.sum(
            [part**2 / s.freedom for part, s in zip(parts, spreads, strict=True)], axis=0
        )
        return cls(
            np.sum([weight * spread.means for spread, weight in pairs], axis=0),
            np.sum([weight * spread.profile for spread, weight in pairs], axis=0),
            seeds,
            _satterthwaite(seeds, square),
            np.sum([weight**2 * spread.both for spread, weight in pairs], axis=0),
        )

    @property
    def size(self) -> int:
        return self.profile.shape[1]

    @property
    def samples(self) -> Values:
        """Covariance of the means over new samples [R, R]; NaN if there is one sample."""
        rows = len(self.profile)
        if self.size == 1:
            return np.full((rows, rows), np.nan)
        return np.cov(self.profile).reshape(rows, rows) / self.size


@dataclass(frozen=True)
class Comparison:
    """R rows compared with each other; NaN and False stand where a row has one seed.

    difference: row less column, with `low` and `high` ends of its 95% interval. p: that the two do
    not differ, after Holm's correction for all pairs. better: the test says that the row is better
    than the column.
    intervals: ends of the 95% interval of each mean; of a row with one seed, over samples alone.
    one_seed, lasting: the variance of a difference between rows of one seed each, and the part of
    it that more seeds do not make smaller.
    """

    difference: Values  # [R, R]
    low: Values
    high: Values
    p: Values
    better: Flags
    intervals: Values  # [R, 2]
    one_seed: Values
    lasting: Values

    @property
    def tested(self) -> Flags:
        """The rows that have been compared with others [R]."""
        return np.asarray(np.isfinite(self.p).any(axis=1))

    @property
    def seeds(self) -> Values:
        """The least number of seeds of each row that would tell two apart in four of five studies
        like this one, by the test without Holm's correction [R, R]; infinite if it takes more
        samples.
        """
        needed = np.full_like(self.difference, np.inf)
        counts = np.arange(MOST_SEEDS, 1, -1)
        freedom = 2.0 * (counts - 1)
        least = stats.t.ppf(1 - LEVEL / 2, freedom) + stats.t.ppf(POWER, freedom)
        for count, errors in zip(counts, least, strict=True):
            error = np.sqrt(self.one_seed / count + self.lasting)
            needed[np.abs(self.difference) >= errors * error] = count
        needed[np.isnan(self.p)] = np.nan
        return needed

    @cached_property
    def places(self) -> list[int | None]:
        """Of each row one more than the rows that are better; None for what was not tested, and for
        all if no two differ.
        """
        if not self.better.any():
            return [None] * len(self.better)
        above = self.better.sum(axis=0)
        return [int(n) + 1 if t else None for n, t in zip(above, self.tested, strict=True)]

    @cached_property
    def letters(self) -> list[str]:
        """Letters of each row: two that share one cannot be told apart, and all others can
        (Piepho 2004). Empty for what was not tested, and for all if no two differ.
        """
        if not self.better.any():
            return [""] * len(self.better)
        order = [int(i) for i in np.argsort(-np.nansum(self.difference, axis=1), kind="stable")]
        tested = [i for i in order if self.tested[i]]
        groups = reduce(_apart, self._different(tested), [frozenset(tested)])
        groups.sort(key=lambda group: [tested.index(i) for i in sorted(group, key=tested.index)])
        names = [_letter(i) for i in range(len(groups))]
        return [
            "".join(name for name, group in zip(names, groups, strict=True) if i in group)
            for i in range(len(self.better))
        ]

    def _different(self, rows: Sequence[int]) -> list[tuple[int, int]]:
        return [(a, b) for a in rows for b in rows if self.better[a, b]]


def compare(spreads: Sequence[Spread]) -> Comparison:
    """Compare R rows by the sum of their means in several sets of samples, or by those in one.

    Rows are paired by their samples. The variance of a difference has a part for the seeds of
    either row and one for the samples, and Satterthwaite's degrees of freedom; p is that of the t
    distribution. The sets of samples, and the seeds of any two rows, are independent.
    """
    parts = [_Parts.of(spread) for spread in spreads]
    means = np.sum([spread.means for spread in spreads], axis=0)
    difference = means[:, None] - means
    variance = np.sum([part.variance for part in parts], axis=0)
    error = np.sqrt(variance)
    freedom = _satterthwaite(variance, np.sum([part.square for part in parts], axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs(difference) / error
    ratio = np.where(difference == 0, 0.0, ratio)  # also of two that never vary
    p = np.where(np.isfinite(variance), 2 * stats.t.sf(ratio, freedom), np.nan)
    np.fill_diagonal(p, np.nan)
    adjusted = _holm(p)
    half = stats.t.ppf(1 - LEVEL / 2, freedom) * error
    return Comparison(
        difference,
        difference - half,
        difference + half,
        adjusted,
        (adjusted < LEVEL) & (difference > 0),
        _intervals(means, spreads),
        np.sum([part.one_seed for part in parts], axis=0),
        np.sum([part.lasting for part in parts], axis=0),
    )


@dataclass(frozen=True)
class _Parts:
    """The variance of differences on one set of samples: [R, R] each.

    square: sum of the squares of its parts, each over its degrees of freedom. one_seed: the part
    for seeds if each row had one; lasting: what more seeds do not make smaller.
    """

    variance: Values
    square: Values
    one_seed: Values
    lasting: Values

    @classmethod
    def of(cls, spread: Spread) -> "_Parts":
        covariance = spread.samples
        own = np.diag(covariance)
        samples = np.maximum(own[:, None] + own - 2 * covariance, 0.0)
        both, seeds = _pairs(spread.both), _pairs(spread.seeds)
        squares = spread.seeds**2 / np.maximum(spread.freedom, 1)
        return cls(
            np.maximum(seeds + samples - both, samples),
            _pairs(squares) + samples**2 / max(spread.size - 1, 1),
            _pairs(spread.seeds * (spread.freedom + 1)),
            np.maximum(samples - both, 0.0),
        )


def _pairs(values: Values) -> Values:
    """Sums of any two of the values [R]: [R, R]."""
    return np.asarray(values[:, None] + values)


def _intervals(means: Values, spreads: Sequence[Spread]) -> Values:
    """Ends [R, 2] of the 95% intervals of means."""
    variance, square = np.zeros_like(means), np.zeros_like(means)
    for spread in spreads:
        own, seeds = np.diag(spread.samples), np.nan_to_num(spread.seeds)
        variance += np.maximum(seeds + own - spread.both, own)
        square += seeds**2 / np.maximum(spread.freedom, 1) + own**2 / max(spread.size - 1, 1)
    half = stats.t.ppf(1 - LEVEL / 2, _satterthwaite(variance, square)) * np.sqrt(variance)
    return np.stack((means - half, means + half), axis=1)


def _satterthwaite(variance: Values, square: Values) -> Values:
    """Degrees of freedom of a sum of variances; one that is nil has any number of them."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(variance > 0, variance**2 / square, MANY))


def _holm(p: Values) -> Values:
    """Holm's p-values (1979) of the pairs above the diagonal, for both halves."""
    above = np.triu_indices_from(p, 1)
    values = p[above]
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    steps = values[order] * np.arange(len(order), 0, -1)
    values[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    adjusted = np.full_like(p, np.nan)
    adjusted[above] = values
    return np.where(np.isfinite(adjusted), adjusted, adjusted.T)


def _apart(groups: list[frozenset[int]], pair: tuple[int, int]) -> list[frozenset[int]]:
    """The groups after two rows are told apart: one that holds both becomes two, and what lies
    within another group goes.
    """
    first, second = pair
    split = [
        part
        for group in groups
        for part in ((group - {first}, group - {second}) if {first, second} <= group else (group,))
    ]
    kept = list(dict.fromkeys(split))
    return [group for group in kept if not any(group < other for other in kept)]


def _letter(index: int) -> str:
    turn, place = divmod(index, len(ascii_lowercase))
    return ascii_lowercase[place] + "'" * turn
