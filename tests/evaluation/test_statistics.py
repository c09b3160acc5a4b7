"""Intervals and paired tests: by hand, beside scipy's, and by simulation."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from depalm.evaluation.metrics import METRICS
from depalm.evaluation.statistics import Comparison, Spread, compare, contributions

Rows = list[NDArray[np.float64] | None]


def compared(rows: Rows) -> Comparison:
    means = [None if row is None else float(row.mean()) for row in rows]
    return compare([Spread.of(rows, means)])


def test_with_samples_alone_it_is_the_paired_t_test() -> None:
    """Seeds that all say the same vary in nothing."""
    draw = np.random.default_rng(0)
    first, second = draw.normal(50, 10, 40), draw.normal(53, 10, 40)
    found = compared([np.tile(first, (3, 1)), np.tile(second, (3, 1))])
    assert found.p[0, 1] == pytest.approx(stats.ttest_rel(first, second).pvalue)
    low, high = stats.ttest_rel(first, second).confidence_interval()
    assert (found.low[0, 1], found.high[0, 1]) == pytest.approx((low, high))
    mean = stats.t.interval(0.95, 39, first.mean(), first.std(ddof=1) / 40**0.5)
    assert tuple(found.intervals[0]) == pytest.approx(mean)


def test_with_seeds_alone_it_is_welchs_t_test() -> None:
    """Samples that all say the same vary in nothing."""
    first, second = np.array([50.0, 52, 54]), np.array([55.0, 55.5, 57, 58])
    rows: Rows = [np.tile(values[:, None], (1, 30)) for values in (first, second)]
    found = compared(rows)
    assert found.p[0, 1] == pytest.approx(stats.ttest_ind(first, second, equal_var=False).pvalue)
    mean = stats.t.interval(0.95, 2, first.mean(), first.std(ddof=1) / 3**0.5)
    assert tuple(found.intervals[0]) == pytest.approx(mean)


def test_seeds_and_samples_make_the_variance_of_two_way_random_effects() -> None:
    """Against the mean squares of an analysis of variance, written out."""
    draw = np.random.default_rng(1)
    values = draw.normal(50, 10, 25) + draw.normal(0, 5, (4, 1)) + draw.normal(0, 3, (4, 25))
    seeds, samples, whole = values.mean(1), values.mean(0), values.mean()
    of_seeds = 25 * ((seeds - whole) ** 2).sum() / 3
    of_samples = 4 * ((samples - whole) ** 2).sum() / 24
    rest = ((values - seeds[:, None] - samples + whole) ** 2).sum() / (3 * 24)
    variance = (of_seeds + of_samples - rest) / 100
    [[low, high]] = compared([values]).intervals
    freedom = variance**2 / ((of_seeds / 100) ** 2 / 3 + (of_samples / 100) ** 2 / 24)
    half = stats.t.ppf(0.975, freedom) * variance**0.5
    assert (low, high) == pytest.approx((whole - half, whole + half))


def test_holms_correction() -> None:
    """Three rows: the smallest p counts three times, the next twice, and none falls below one
    before it.
    """
    draw = np.random.default_rng(2)
    base = draw.normal(50, 10, 200)
    rows: Rows = [np.tile(base + shift + draw.normal(0, 10, 200), (2, 1)) for shift in (0, 1, 4)]
    alone = {(a, b): compared([rows[a], rows[b]]).p[0, 1] for a, b in ((0, 1), (0, 2), (1, 2))}
    found = compared(rows)
    order = sorted(alone, key=lambda pair: alone[pair])
    expected = []
    for rank, pair in enumerate(order):
        expected.append(min(1.0, max([alone[pair] * (3 - rank), *expected])))
    assert [found.p[pair] for pair in order] == pytest.approx(expected)
    assert np.array_equal(found.p, found.p.T, equal_nan=True)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
def test_of_comparisons_without_a_difference_5_in_100_are_called_one(
    seeds: int, spread: float
) -> None:
    """1,000 pairs of methods that do not differ; their seeds vary by nothing, by as much as samples
    do, or by more.
    """
    draw = np.random.default_rng(seeds)
    called, covered = 0, 0
    for _ in range(1000):
        questions = draw.normal(0, 30, 100)
        rows: Rows = [
            50
            + questions
            + draw.normal(0, 20, 100)
            + draw.normal(0, 2 * spread, (seeds, 1))
            + draw.normal(0, 20, (seeds, 100))
            for _ in range(2)
        ]
        found = compared(rows)
        called += bool(found.better.any())
        covered += int(((found.intervals[:, 0] < 50) & (found.intervals[:, 1] > 50)).sum())
    assert called <= 65
    assert 0.92 < covered / 2000 < 0.98


def test_of_many_methods_without_a_difference_few_tables_call_one() -> None:
    draw = np.random.default_rng(0)
    called = 0
    for _ in range(300):
        questions = draw.normal(0, 30, 100)
        rows: Rows = [
            questions + draw.normal(0, 20, 100) + draw.normal(0, 2, (3, 1)) for _ in range(8)
        ]
        called += bool(compared(rows).better.any())
    assert called <= 300 * 0.065


def test_a_difference_is_found() -> None:
    """Of methods five points apart, nearly every time."""
    draw = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        questions = draw.normal(0, 30, 500)
        rows: Rows = [
            mean + questions + draw.normal(0, 20, 500) + draw.normal(0, 0.5, (5, 1))
            for mean in (50, 57)
        ]
        found += bool(compared(rows).better[1, 0])
    assert found > 190


def test_one_seed_or_one_sample_is_no_test() -> None:
    draw = np.random.default_rng(0)
    rows: Rows = [draw.normal(mean, 1, (seeds, 50)) for mean, seeds in ((0, 1), (90, 2), (99, 2))]
    found = compared(rows)
    assert found.tested.tolist() == [False, True, True]
    assert np.isnan(found.p[0]).all()
    assert found.places == [None, 2, 1]
    assert found.letters == ["", "b", "a"]
    assert np.isfinite(found.intervals).all()
    alone = compared([np.array([[1.0], [2.0]]), np.array([[8.0], [9.0]])])
    assert not alone.tested.any()
    assert np.isnan(alone.intervals).all()


def test_a_missing_row_is_compared_with_nothing() -> None:
    draw = np.random.default_rng(0)
    found = compared([draw.normal(0, 1, (2, 50)), None, draw.normal(9, 1, (2, 50))])
    assert found.places == [2, None, 1]
    assert found.letters == ["b", "", "a"]
    assert np.isnan(found.intervals[1]).all()


def test_rows_that_say_the_same_do_not_differ() -> None:
    same = np.random.default_rng(0).normal(0, 1, (2, 50))
    found = compared([same, same.copy(), np.full((2, 50), 3.0), np.full((2, 50), 3.0)])
    assert (found.p[0, 1], found.p[2, 3]) == (1.0, 1.0)
    assert found.letters == ["b", "b", "a", "a"]


def test_letters_are_shared_by_those_that_cannot_be_told_apart_and_by_no_others() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        count = int(draw.integers(2, 9))
        questions = draw.normal(0, 30, 60)
        rows: Rows = [
            questions + draw.normal(draw.uniform(0, 10), 8, 60) + draw.normal(0, 1, (3, 1))
            for _ in range(count)
        ]
        found = compared(rows)
        if not found.better.any():
            continue
        letters = found.letters
        for a in range(count):
            for b in range(a):
                different = bool(found.better[a, b] or found.better[b, a])
                assert different == (not set(letters[a]) & set(letters[b]))


def test_how_many_seeds_would_tell_two_apart() -> None:
    """So many do in four of five studies; with a few less, in fewer."""
    draw = np.random.default_rng(0)
    base = draw.normal(0, 30, 4000)

    def study(seeds: int, gap: float = 3.0) -> Comparison:
        rows: Rows = [
            mean + base + draw.normal(0, 3, (seeds, 1)) + draw.normal(0, 5, (seeds, 4000))
            for mean in (50, 50 + gap)
        ]
        return compared(rows)

    exact = [np.array([[-3.0], [3.0]]) / 2**0.5 + mean + base for mean in (50.0, 53.0)]
    needed = int(compared(list(exact)).seeds[0, 1])
    power = np.mean([study(needed).better.any() for _ in range(300)])
    assert 0.7 < power < 0.9
    close: Rows = [exact[0], exact[0] + 0.2]
    assert compared(close).seeds[0, 1] > 100
    # where seeds vary in nothing, more of them tell nothing
    few = draw.normal(0, 30, (2, 20))
    alike: Rows = [
        np.tile(row - row.mean() + mean, (3, 1)) for row, mean in zip(few, (0, 1), strict=True)
    ]
    assert compared(alike).seeds[0, 1] == np.inf


def test_contributions_of_corpus_scores_are_those_of_leaving_one_out() -> None:
    """The mean of BLEU-2's is the jackknife's estimate, and their spread its standard error, which
    a bootstrap over samples gives too.
    """
    draw = np.random.default_rng(0)
    words = draw.integers(8, 14, 300)
    right = draw.binomial(words, 0.6)
    pairs = draw.binomial(words - 1, 0.35)
    zeros = np.zeros(300)
    counts = np.stack((right, pairs, zeros, zeros, words, words - 1, zeros, zeros, words + 1), 1)
    counts = counts.astype(np.float64)
    of_sums = METRICS["bleu_2"].of_sums
    assert of_sums is not None
    parts = contributions(counts, of_sums)
    whole = 100 * float(of_sums(counts.sum(0)))
    without = 100 * float(of_sums(counts[1:].sum(0)))
    assert parts[0] == pytest.approx(300 * whole - 299 * without)
    assert parts.mean() == pytest.approx(whole, rel=1e-3)

    def bleu(index: NDArray[np.int64], axis: int) -> NDArray[np.float64]:
        return 100 * of_sums(counts[index].sum(axis=axis - 1))

    drawn = stats.bootstrap(
        (np.arange(300),), bleu, n_resamples=2000, vectorized=True, rng=draw, method="percentile"
    )
    assert parts.std(ddof=1) / 300**0.5 == pytest.approx(drawn.standard_error, rel=0.1)


def test_scores_of_other_samples_add_up() -> None:
    """The variance of a sum of two scores, each on samples of its own, is the sum of theirs."""
    draw = np.random.default_rng(0)
    sets = [[np.tile(draw.normal(50, 10, n), (3, 1)) for _ in range(2)] for n in (400, 900)]
    spreads = [Spread.of(rows, [float(row.mean()) for row in rows]) for rows in sets]
    halves = [(found.high - found.low)[0, 1] / 2 for found in (compare([s]) for s in spreads)]
    both = compare(spreads)
    gap = sum(float(rows[0].mean() - rows[1].mean()) for rows in sets)
    assert both.difference[0, 1] == pytest.approx(gap)
    assert (both.high - both.low)[0, 1] / 2 == pytest.approx(np.hypot(*halves), rel=0.01)


def test_scores_of_the_same_samples_add_up() -> None:
    """Half of a score twice, from other seeds that happen to say the same: what varies by samples
    is as before, what varies by seeds is half of it.
    """
    draw = np.random.default_rng(0)
    rows = [draw.normal(50, 10, (3, 40)) + draw.normal(0, 5, (3, 1)) for _ in range(2)]
    once = Spread.of(rows, [float(row.mean()) for row in rows])
    twice = Spread.total([once, once], [0.5, 0.5])
    assert twice.means == pytest.approx(once.means)
    assert twice.samples == pytest.approx(once.samples)
    assert twice.seeds == pytest.approx(once.seeds / 2)
    assert twice.freedom == pytest.approx([4, 4])
