"""Tables of the tests, and what they show."""

import csv
import io
from pathlib import Path
from typing import Any

import pandas as pd

from depalm.evaluation.grid import lay_out
from depalm.evaluation.tables import build_table
from depalm.specs import TableSpec
from tests.support.scores import make_run

PUBLISHED = Path(__file__).parents[2] / "config" / "published.csv"
SPEC = TableSpec(name="demo", title="Demo", methods=["blind", "limber_1", "qp_l0"])


def table_spec(**changes: Any) -> TableSpec:
    return TableSpec.model_validate({**SPEC.given(), **changes})


def shown(runs: list[dict[str, Any]], **spec: Any) -> list[dict[str, str]]:
    """What the printed table shows: one {heading: text} per row."""
    grid = lay_out(build_table(runs, table_spec(**spec)))
    return [dict(zip(grid.header, (entry.text for entry in row), strict=True)) for row in grid.rows]


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def published_runs() -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """The published table as runs, one for each value in it; and its averages, by method."""
    published = pd.read_csv(PUBLISHED)
    scores = published.dropna(subset="dataset")
    runs = [
        make_run(
            str(row.method),
            None,
            dataset=row.dataset,
            fraction=row.fraction,
            metrics={row.metric: row.mean},
            primary_metric=row.metric,
        )
        for row in scores.itertuples(index=False)
    ]
    averages = published[published["dataset"].isna()]
    return runs, averages.pivot(index="method", columns="metric", values="mean")
