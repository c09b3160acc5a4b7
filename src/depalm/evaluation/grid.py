"""A result table laid out: what stands in which printed column."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

from depalm.evaluation.averages import average_rank
from depalm.evaluation.cells import Cell, Column, Table
from depalm.evaluation.metrics import METRICS
from depalm.evaluation.notes import MISSING
from depalm.evaluation.runs import Run, predicted_seconds
from depalm.evaluation.statistics import Comparison


class Entry(NamedTuple):
    """A cell of a printed table. `place` is the row's in the column, as far as a test tells; rows
    that share one of `letters` cannot be told apart.
    """

    text: str
    place: int | None = None
    letters: str = ""


class Grid(NamedTuple):
    """A printed table: the first `names` columns say what a row is, the others are numbers."""

    header: list[str]
    rows: list[list[Entry]]
    names: int


def lay_out(table: Table) -> Grid:
    """The printed columns: identities that vary, the method, scores, averages, seeds, cost."""
    runs = [table.runs(row) for row in table.rows]
    names = {
        "Backbone": [row.backbone for row in table.rows],
        "LLM": [row.llm for row in table.rows],
    }
    names = {title: values for title, values in names.items() if len(set(values)) > 1}
    names["Method"] = [table.label(row) for row in table.rows]
    columns = {title: [Entry(text) for text in values] for title, values in names.items()}
    for title, column in zip(column_titles(table.columns), table.columns, strict=True):
        comparison = table.compared.get(column)
        texts = [
            _score(table, table.cells[row, column], interval)
            for row, interval in zip(table.rows, _intervals(table, comparison), strict=True)
        ]
        columns[title] = _entries(texts, comparison)
    if table.averaged:
        ranks = average_rank(table.means)
        scores = [f"{value:.1f}" for value in table.average_scores]
        columns["Average score"] = _entries(scores, table.overall)
        columns["Average rank"] = [Entry(f"{value:.1f}") for value in ranks]
    seeds = [
        {len(table.cells[row, column].scores) for column in table.columns} - {0}
        for row in table.rows
    ]
    parameters = [{run["trainable_parameters"] for run in of_row} for of_row in runs]
    columns["Seeds"] = [Entry(_span(numbers)) for numbers in seeds]
    columns["Trainable parameters"] = [Entry(_span(numbers)) for numbers in parameters]
    columns["Train seconds"] = [Entry(_seconds(of_row)) for of_row in runs]
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    return Grid(list(columns), rows, names=len(names))


def column_titles(columns: Sequence[Column]) -> list[str]:
    """Title of each score column: dataset, split if several, fraction if not all, metric, type."""
    several = len({column.split for column in columns}) > 1
    titles = []
    for column in columns:
        split = f" {column.split}" if several else ""
        fraction = "" if column.fraction == "100pct" else f" {column.fraction.replace('pct', '%')}"
        part = f", {column.part}" if column.part else ""
        titles.append(f"{column.dataset}{split}{fraction} {METRICS[column.metric].title}{part}")
    return titles


def _intervals(table: Table, comparison: Comparison | None) -> list[tuple[float, float] | None]:
    """The intervals of a column's means, where they are known."""
    if comparison is None:
        return [None] * len(table.rows)
    return [(low, high) if low == low else None for low, high in comparison.intervals.tolist()]


def _score(table: Table, cell: Cell, interval: tuple[float, float] | None) -> str:
    """The mean with its spread, the score of each seed, and what was published."""
    if cell.mean is None:
        text = MISSING
    elif table.spec.spread == "deviation":
        text = f"{cell.mean:.2f}"
        text += "" if cell.deviation is None else f" ± {cell.deviation:.2f}"
    else:
        text = f"{cell.mean:.2f}"
        text += "" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})"
    if table.spec.per_seed and len(cell.scores) > 1:
        text += f" ({', '.join(f'{value:.2f}' for value in cell.scores.values())})"
    return text + ("" if cell.published is None else f" [{cell.published:.2f}]")


def _entries(texts: Iterable[str], comparison: Comparison | None) -> list[Entry]:
    if comparison is None:
        return [Entry(text) for text in texts]
    marks = zip(texts, comparison.places, comparison.letters, strict=True)
    return [Entry(*mark) for mark in marks]


def _seconds(runs: Sequence[Run]) -> str:
    """The mean of what training took, and of what was predicted of it before it ran."""
    taken = f"{fmean(run['train_seconds'] for run in runs):,.0f}"
    predicted = predicted_seconds(runs)
    return taken if predicted is None else f"{taken} (predicted {predicted:,.0f})"


def _span(numbers: set[int]) -> str:
    """The number, or the smallest and the largest of several; missing if there is none."""
    ends = sorted({min(numbers), max(numbers)}) if numbers else []
    return "–".join(f"{number:,}" for number in ends) or MISSING
