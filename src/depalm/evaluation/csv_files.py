"""A result table as CSV for machines: its cells, and the differences of its rows."""

import csv
import io
from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

import numpy as np

from depalm.evaluation.averages import average_rank
from depalm.evaluation.cells import Row, Table
from depalm.evaluation.runs import predicted_seconds
from depalm.evaluation.statistics import Comparison


def to_csv(table: Table) -> str:
    """One line per row and column at full precision; averages as metrics of no dataset."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*CSV_HEADER])
    for i, row in enumerate(table.rows):
        label = table.label(row)
        for column in table.columns:
            cell = table.cells[row, column]
            seeds = " ".join(map(str, cell.scores))
            parameters = " ".join(sorted({str(run["trainable_parameters"]) for run in cell.runs}))
            seconds = fmean(run["train_seconds"] for run in cell.runs) if cell.runs else None
            numbers = [cell.mean, cell.deviation, len(cell.scores), seeds, parameters, seconds]
            texts = map(_plain, (*row, label, *column[:4]))
            values = " ".join(map(repr, cell.scores.values()))
            told = [_plain(cell.reason), cell.published, _plain(column.part), values]
            standing = _standing(table.compared.get(column), i)
            writer.writerow([*texts, *numbers, *told, *standing, predicted_seconds(cell.runs)])
    if table.averaged:
        averages: dict[str, tuple[Sequence[float], Comparison | None]] = {
            "average_score": (table.average_scores, table.overall),
            "average_rank": (list(average_rank(table.means)), None),
        }
        for name, (means, comparison) in averages.items():
            for i, (row, value) in enumerate(zip(table.rows, means, strict=True)):
                texts = map(_plain, (*row, table.label(row)))
                empty = [""] * 9
                standing = _standing(comparison, i)
                writer.writerow([*texts, "", "", "", name, value, *empty, *standing, ""])
    return stream.getvalue()


def _standing(comparison: Comparison | None, row: int) -> list[object]:
    """Ends of the 95% interval, place and letters of a row."""
    if comparison is None:
        return [""] * 4
    low, high = (value if value == value else "" for value in comparison.intervals[row].tolist())
    return [low, high, comparison.places[row] or "", comparison.letters[row]]


def to_pairs(table: Table) -> str:
    """CSV of any two rows of a column: their difference with its 95% interval, p after Holm's
    correction, which is better by the test, and how many seeds would tell them apart.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*PAIRS_HEADER])
    compared = [(tuple(column), comparison) for column, comparison in table.compared.items()]
    if table.overall is not None:
        compared.append((("", "", "", "average_score", ""), table.overall))
    for column, comparison in compared:
        seeds = comparison.seeds
        for a, b in combinations(range(len(table.rows)), 2):
            if np.isfinite(comparison.p[a, b]):
                names = (_name(table.rows[row]) for row in (a, b))
                texts = map(_plain, (*column, *names))
                writer.writerow([*texts, *_pair(comparison, a, b), _count(seeds[a, b])])
    return stream.getvalue()


def _pair(comparison: Comparison, a: int, b: int) -> list[object]:
    """What is known of two rows that were compared."""
    parts = (comparison.difference, comparison.low, comparison.high, comparison.p)
    numbers = [float(part[a, b]) for part in parts]
    first, second = bool(comparison.better[a, b]), bool(comparison.better[b, a])
    better = "first" if first else "second" if second else ""
    return [*numbers, better]


def _count(seeds: float) -> int | str:
    return int(seeds) if np.isfinite(seeds) else "more samples"


def _name(row: Row) -> str:
    return "/".join(part for part in row if part)


def _plain(text: str) -> str:
    """A cell of text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


CSV_HEADER = (
    *("backbone", "llm", "method", "label", "dataset", "split", "fraction", "metric"),
    *("mean", "std", "n", "seeds", "trainable_parameters", "train_seconds", "unavailable"),
    *("published", "part", "values", "low", "high", "place", "letters"),
    "train_seconds_predicted",
)
PAIRS_HEADER = (
    *("dataset", "split", "fraction", "metric", "part", "first", "second"),
    *("difference", "low", "high", "p", "better", "seeds_needed"),
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")
