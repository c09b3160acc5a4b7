"""What a result table is made of: rows, columns, cells, and what is known of their differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import NamedTuple

import pandas as pd

from depalm.evaluation.averages import average_score
from depalm.evaluation.runs import Run
from depalm.evaluation.statistics import Comparison
from depalm.specs import TableSpec


class Row(NamedTuple):
    """In a table that has one row for each method, `backbone` and `llm` are empty."""

    backbone: str
    llm: str
    method: str


class Column(NamedTuple):
    """`part` is the type of question or answer that it is of; empty for all samples."""

    dataset: str
    split: str
    fraction: str
    metric: str
    part: str = ""


@dataclass(frozen=True)
class Cell:
    """The runs of a row and a column, one for each seed, and the scores that are there, by seed;
    `published` is somebody's mean of it.
    """

    runs: Sequence[Run]
    metric: str
    scores: Mapping[int, float]
    published: float | None = None

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
    """A result table before it is printed; `notes` stand under it.

    compared: what is known of the differences between the rows of a column; overall: between their
    average scores.
    """

    spec: TableSpec
    rows: Sequence[Row]
    columns: Sequence[Column]
    cells: Mapping[tuple[Row, Column], Cell]
    notes: Sequence[str]
    compared: Mapping[Column, Comparison] = field(default_factory=dict)
    overall: Comparison | None = None

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
        columns = [column for column in self.columns if column[:4] in main and not column.part]
        return columns if len(columns) > 1 else []

    def runs(self, row: Row) -> list[Run]:
        """The runs of a row, each once."""
        cells = [self.cells[row, column] for column in self.columns]
        return list({id(run): run for cell in cells for run in cell.runs}.values())

    def label(self, row: Row) -> str:
        return str(self.runs(row)[0]["label"])

    @property
    def means(self) -> pd.DataFrame:
        """Mean scores [rows, columns] of the columns that are averaged, NaN where there is none."""
        values = [[self.cells[row, column].mean for column in self.averaged] for row in self.rows]
        return pd.DataFrame(values, dtype="float64")

    @property
    def average_scores(self) -> list[float]:
        return list(average_score(self.means))


def scores_of(runs: Sequence[Run], metric: str) -> dict[int, float]:
    """The scores that are there, by seed."""
    values = {run["seed"]: run["metrics"].get(metric) for run in runs}
    return {seed: values[seed] for seed in sorted(values) if values[seed] is not None}
