"""Result tables: the scores of many runs, aggregated over seeds.

A row is a method between a backbone and an LLM, a score column is a metric on a dataset at a
fraction of its training set, and a cell is the mean over the seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from statistics import fmean, stdev
from typing import NamedTuple

import pandas as pd

from depalm.evaluation.notes import describe
from depalm.evaluation.runs import FILTERED, Published, Run, TableError, ordered
from depalm.specs import TableSpec


class Row(NamedTuple):
    """In a table that has one row for each method, `backbone` and `llm` are empty."""

    backbone: str
    llm: str
    method: str


class Column(NamedTuple):
    dataset: str
    split: str
    fraction: str
    metric: str


@dataclass(frozen=True)
class Cell:
    """The runs of a row and a column, one for each seed; `published` is somebody's mean of it."""

    runs: Sequence[Run]
    metric: str
    published: float | None = None

    @cached_property
    def scores(self) -> dict[int, float]:
        """The scores that are there, by seed."""
        values = {run["seed"]: run["metrics"].get(self.metric) for run in self.runs}
        return {seed: values[seed] for seed in sorted(values) if values[seed] is not None}

    @property
    def mean(self) -> float | None:
        return fmean(self.scores.values()) if self.scores else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation (divided by n - 1); one seed has none."""
        return stdev(self.scores.values()) if len(self.scores) > 1 else None

    @property
    def reason(self) -> str:
        """Why the metric is missing; empty if it is not."""
        reasons = (run.get("unavailable", {}).get(self.metric) for run in self.runs)
        return next((reason for reason in reasons if reason), "")


@dataclass(frozen=True)
class Table:
    """A result table before it is printed; `notes` stand under it."""

    name: str
    title: str
    rows: Sequence[Row]
    columns: Sequence[Column]
    cells: Mapping[tuple[Row, Column], Cell]
    notes: Sequence[str]

    @property
    def averaged(self) -> list[Column]:
        """The columns that averages are made of: of each dataset its main metric alone, for other
        metrics of the same texts would count them again. None if there is only one.
        """
        main = {
            (run["dataset"], run["split"], run["fraction"], run["primary_metric"])
            for cell in self.cells.values()
            for run in cell.runs
        }
        columns = [column for column in self.columns if tuple(column) in main]
        return columns if len(columns) > 1 else []

    def runs(self, row: Row) -> list[Run]:
        """The runs of a row, each once."""
        cells = [self.cells[row, column] for column in self.columns]
        return list({id(run): run for cell in cells for run in cell.runs}.values())

    @property
    def means(self) -> pd.DataFrame:
        """Mean scores [rows, columns] of the columns that are averaged, NaN where there is none."""
        values = [[self.cells[row, column].mean for column in self.averaged] for row in self.rows]
        return pd.DataFrame(values, dtype="float64")


def average_score(means: pd.DataFrame) -> pd.Series:
    """Mean over the columns of 100 x value / best value of the column; a missing value counts 0.

    `means` is [rows, columns]; a column without any value is left out (docs/methods.md#table-rule).
    """
    known = means.dropna(axis="columns", how="all")
    return (100 * known / known.max()).fillna(0).mean(axis="columns")


def average_rank(means: pd.DataFrame) -> pd.Series:
    """Mean over the columns of the competition rank; a missing value ranks last, as row n of n.

    `means` is [rows, columns]; a column without any value is left out (docs/methods.md#table-rule).
    """
    known = means.dropna(axis="columns", how="all")
    return known.rank(ascending=False, method="min").fillna(len(known)).mean(axis="columns")


def build_table(
    runs: Sequence[Run],
    spec: TableSpec,
    published: Published | None = None,
    missing: Sequence[str] = (),
) -> Table:
    """The table that `spec` asks for; its notes name the runs that are `missing`.

    Rows and columns stand in the order of the spec's lists; what has no list stands as it comes,
    and fractions from large to small. With `rows: methods` there is one row for each method, with
    whichever backbone and LLM it has in a column. Raises TableError if no run matches the filters,
    if no run has one of the metrics, or if a cell would mix backbones or LLMs.
    """
    runs = _select(runs, spec)
    order = {key: ordered((run[key] for run in runs), getattr(spec, f"{key}s")) for key in FILTERED}
    if not spec.fractions:
        order["fraction"].sort(key=_percent, reverse=True)
    splits = ordered(run["split"] for run in runs)
    listed = None if spec.metrics == "all" else spec.metrics
    metrics = ordered((name for run in runs for name in _metrics(run, spec)), listed)

    by_method = spec.rows == "methods"
    if by_method:
        order |= {"backbone": [""], "llm": [""]}

    found: dict[tuple[Row, Column], list[Run]] = {}
    for run in runs:
        backbone, llm = ("", "") if by_method else (run["backbone"], run["llm"])
        row = Row(backbone, llm, run["method"])
        for name in _metrics(run, spec):
            column = Column(run["dataset"], run["split"], run["fraction"], name)
            found.setdefault((row, column), []).append(run)
    every_row = map(Row._make, product(order["backbone"], order["llm"], order["method"]))
    every_column = map(Column._make, product(order["dataset"], splits, order["fraction"], metrics))
    known_rows, known_columns = {row for row, _ in found}, {column for _, column in found}
    rows = [row for row in every_row if row in known_rows]
    columns = [column for column in every_column if column in known_columns]
    cells = {
        (row, column): Cell(
            found.get((row, column), []),
            column.metric,
            (published or {}).get((row.method, column.dataset, column.fraction, column.metric)),
        )
        for row, column in product(rows, columns)
    }
    _check_unmixed(cells, spec.name)
    table = Table(spec.name, spec.title, rows, columns, cells, notes=[])
    shown, averaged = ([c.metric for c in part] for part in (columns, table.averaged))
    notes = describe(runs, spec.methods or [], shown, averaged, missing)
    if published is not None:
        notes.append("In brackets: the published mean.")
    return replace(table, notes=notes)


def _check_unmixed(cells: Mapping[tuple[Row, Column], Cell], table: str) -> None:
    for (row, column), cell in cells.items():
        models = sorted({f"{run['backbone']}+{run['llm']}" for run in cell.runs})
        if len(models) > 1:
            raise TableError(
                f"table {table}: {row.method} on {column.dataset} {column.fraction} was run with "
                f"{', '.join(models)}: filter its backbones and llms, or leave out `rows: methods`"
            )


def _select(runs: Sequence[Run], spec: TableSpec) -> list[Run]:
    """The runs that match the spec's lists; TableError if none does, or none has a metric of it."""
    filters = {key: getattr(spec, f"{key}s") for key in FILTERED if getattr(spec, f"{key}s")}
    chosen = [run for run in runs if all(run[key] in filters[key] for key in filters)]
    if not chosen:
        raise TableError(f"table {spec.name}: none of {len(runs)} scores matches {filters}")
    metrics = spec.metrics
    if metrics and metrics != "all":
        absent = [name for name in metrics if all(name not in run["metrics"] for run in chosen)]
        if absent:
            raise TableError(f"table {spec.name}: no run has the metric {', '.join(absent)}")
    return chosen


def _metrics(run: Run, spec: TableSpec) -> list[str]:
    """The metrics of a run that the table shows: its primary one, "all", or those of a list."""
    wanted = spec.metrics
    if not wanted:
        return [run["primary_metric"]]
    return list(run["metrics"]) if wanted == "all" else [m for m in wanted if m in run["metrics"]]


def _percent(fraction: str) -> float:
    return float(fraction.removesuffix("pct"))
