"""Result tables: the scores of many runs, aggregated over seeds.

A row is a method between a backbone and an LLM, a score column is a metric on a dataset at a
fraction of its training set, and a cell is the mean over the seeds.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import pandas as pd

from depalm.datasets.annotations import read_csv
from depalm.errors import DepalmError
from depalm.evaluation.metrics import METRICS
from depalm.files import read_json

Run = Mapping[str, Any]  # the content of one scores.json
Published = Mapping[tuple[str, ...], float]  # by method, dataset, fraction and metric
IDENTITY = ("dataset", "split", "fraction", "backbone", "llm", "method", "seed")
FILTERED = ("dataset", "fraction", "backbone", "llm", "method")  # by lists named in the plural
MISSING = "–"


class TableError(DepalmError):
    """Scores that do not make a table: contradictory, incomplete, or none that was asked for."""


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
        """The scores that could be had, by seed."""
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
        """Why the metric could not be had; empty where it could."""
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

    def runs(self, row: Row) -> list[Run]:
        """The runs of a row, each once."""
        cells = [self.cells[row, column] for column in self.columns]
        return list({id(run): run for cell in cells for run in cell.runs}.values())

    @property
    def means(self) -> pd.DataFrame:
        """Mean scores [rows, columns], NaN where there is none."""
        values = [[self.cells[row, column].mean for column in self.columns] for row in self.rows]
        return pd.DataFrame(values, dtype="float64")


def average_score(means: pd.DataFrame) -> pd.Series:
    """Mean over the columns of 100 x value / best value of the column; a missing value counts 0.

    `means` is [rows, columns]; a column without any value is left out (METHODS, "Table rule").
    """
    known = means.dropna(axis="columns", how="all")
    return (100 * known / known.max()).fillna(0).mean(axis="columns")


def average_rank(means: pd.DataFrame) -> pd.Series:
    """Mean over the columns of the competition rank; a missing value ranks last, as row n of n.

    `means` is [rows, columns]; a column without any value is left out (METHODS, "Table rule").
    """
    known = means.dropna(axis="columns", how="all")
    return known.rank(ascending=False, method="min").fillna(len(known)).mean(axis="columns")


def read_runs(paths: Iterable[Path | str]) -> list[Run]:
    """Read scores.json files; a file given twice counts once.

    Raises TableError if one says nothing of its run, or if two differ about the same run.
    """
    runs: dict[tuple[Any, ...], tuple[Path | str, Run]] = {}
    for path in paths:
        run = read_json(path)
        lacking = [key for key in IDENTITY if key not in run]
        if lacking:
            raise TableError(f"{path} has no {', '.join(lacking)}: not a scores.json of depalm")
        first, known = runs.setdefault(tuple(run[key] for key in IDENTITY), (path, run))
        if known != run:
            raise TableError(f"{first} and {path} are different scores of the same run")
    return [run for _, run in runs.values()]


def read_published(path: Path | str) -> Published:
    """Scores that somebody published: a CSV of method, dataset, fraction, metric, mean.

    Raises AnnotationError if it cannot be read, TableError if a column is missing or a row given
    twice.
    """
    keys = ("method", "dataset", "fraction", "metric")
    published: dict[tuple[str, ...], float] = {}
    for number, row in enumerate(read_csv(Path(path)), start=2):
        try:
            cell, mean = tuple(row[key] for key in keys), float(row["mean"])
        except (KeyError, ValueError) as error:
            raise TableError(
                f"{path}, line {number}: not {', '.join(keys)}, mean (a number): {error}"
            ) from error
        if cell in published:
            raise TableError(f"{path}, line {number}: a second row of {' '.join(cell)}")
        published[cell] = mean
    return published


def build_table(
    runs: Sequence[Run], spec: Mapping[str, Any], published: Published | None = None
) -> Table:
    """The table that `spec` asks for (name, title, methods; optional rows, filters and metrics).

    Rows and columns stand in the order of the spec's lists; what has no list stands as it comes,
    and fractions from large to small. With `rows: methods` there is one row for each method, with
    whichever backbone and LLM it has in a column. Raises TableError if no run matches the filters,
    if no run has one of the metrics, or if a cell would mix backbones or LLMs.
    """
    runs = _select(runs, spec)
    order = {key: _ordered((run[key] for run in runs), spec.get(f"{key}s")) for key in FILTERED}
    if not spec.get("fractions"):
        order["fraction"].sort(key=_percent, reverse=True)
    splits = _ordered(run["split"] for run in runs)
    listed = None if spec.get("metrics") == "all" else spec.get("metrics")
    metrics = _ordered((name for run in runs for name in _metrics(run, spec)), listed)

    by_method = spec.get("rows") == "methods"
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
    _check_unmixed(cells, spec["name"])
    notes = _notes(runs, spec.get("methods") or [], columns)
    if published is not None:
        notes.insert(1, "In brackets: the published mean.")
    return Table(
        name=spec["name"],
        title=spec["title"],
        rows=rows,
        columns=columns,
        cells=cells,
        notes=notes,
    )


def _check_unmixed(cells: Mapping[tuple[Row, Column], Cell], table: str) -> None:
    for (row, column), cell in cells.items():
        models = sorted({f"{run['backbone']}+{run['llm']}" for run in cell.runs})
        if len(models) > 1:
            raise TableError(
                f"table {table}: {row.method} on {column.dataset} {column.fraction} was run with "
                f"{', '.join(models)}: filter its backbones and llms, or leave out `rows: methods`"
            )


def _select(runs: Sequence[Run], spec: Mapping[str, Any]) -> list[Run]:
    """The runs that match the spec's lists; TableError if none does, or none has a metric of it."""
    filters = {key: spec[f"{key}s"] for key in FILTERED if spec.get(f"{key}s")}
    chosen = [run for run in runs if all(run[key] in filters[key] for key in filters)]
    if not chosen:
        raise TableError(f"table {spec['name']}: none of {len(runs)} scores matches {filters}")
    metrics = spec.get("metrics")
    if metrics and metrics != "all":
        absent = [name for name in metrics if all(name not in run["metrics"] for run in chosen)]
        if absent:
            raise TableError(f"table {spec['name']}: no run has the metric {', '.join(absent)}")
    return chosen


def _metrics(run: Run, spec: Mapping[str, Any]) -> list[str]:
    """The metrics of a run that the table shows: its primary one, "all", or those of a list."""
    wanted = spec.get("metrics")
    if not wanted:
        return [run["primary_metric"]]
    return list(run["metrics"]) if wanted == "all" else [m for m in wanted if m in run["metrics"]]


def _ordered(found: Iterable[str], wanted: Sequence[str] | None = None) -> list[str]:
    """The different ones of `found`, in the order of `wanted`, or else as they come."""
    different = dict.fromkeys(found)
    return list(different) if not wanted else [name for name in wanted if name in different]


def _percent(fraction: str) -> float:
    return float(fraction.removesuffix("pct"))


def _notes(runs: Sequence[Run], methods: Sequence[str], columns: Sequence[Column]) -> list[str]:
    """What a reader has to know: how to read the cells, what is missing and why, mixed origins."""
    notes = [
        "Mean ± sample standard deviation over seeds; the best mean of a column is bold; "
        f"{MISSING} is missing."
    ]
    if len(columns) > 1:
        notes.append(
            "Average score: mean over the columns of 100 × value / best value of the column, a "
            "missing value counts 0. Average rank: a missing value ranks last."
        )
    shown = {column.metric for column in columns}
    reasons = dict.fromkeys(
        f"{run['dataset']}, {METRICS[name].title}: {reason}."
        for run in runs
        for name, reason in run.get("unavailable", {}).items()
        if name in shown
    )
    without = [method for method in methods if all(run["method"] != method for run in runs)]
    absent = [f"No scores of {', '.join(without)}."] if without else []
    return [*notes, *reasons, *absent, *_mixed_origins(runs)]


def _mixed_origins(runs: Sequence[Run]) -> list[str]:
    """A note for each of commit, device and packages that differs among the runs, and for each
    method whose seeds were trained with different configurations.
    """
    origins = []
    for run in runs:
        commit, *dirty = run["commit"].partition("+")
        origin = {
            "commit": commit[:12] + "".join(dirty),
            "device": run["device"],
        }
        origins.append({**origin, **run["versions"]})
    notes = []
    for part in _ordered(part for origin in origins for part in origin):
        counts = Counter(origin.get(part, "none") for origin in origins)
        if len(counts) > 1:
            values = ", ".join(f"{value} ({n} run{'s' * (n > 1)})" for value, n in counts.items())
            notes.append(f"Mixed provenance: the runs differ in {part}: {values}.")
    configurations: dict[tuple[str, ...], set[str]] = {}
    for run in runs:
        key = tuple(run[part] for part in FILTERED)
        configurations.setdefault(key, set()).add(run["config_sha256"])
    notes += [
        f"Mixed provenance: the seeds of {', '.join(key)} differ in configuration."
        for key, found in configurations.items()
        if len(found) > 1
    ]
    return notes
