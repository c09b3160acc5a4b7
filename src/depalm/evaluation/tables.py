"""Result tables: the scores of many runs, aggregated over seeds.

A row is a method between a backbone and an LLM, a score column is a metric on a dataset at a
fraction of its training set, and a cell is the mean over the seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product, starmap

from depalm.evaluation.cells import Cell, Column, Row, Table, scores_of
from depalm.evaluation.notes import describe
from depalm.evaluation.runs import FILTERED, Published, Run, TableError, ordered
from depalm.evaluation.significance import Load, with_comparisons, with_parts
from depalm.specs import TableSpec


def build_table(
    runs: Sequence[Run],
    spec: TableSpec,
    published: Published | None = None,
    missing: Sequence[str] = (),
    samples: Load | None = None,
) -> Table:
    """The table that `spec` asks for; its notes name the runs that are `missing`.

    Rows and columns stand in the order of the spec's lists; what has no list stands as it comes,
    and fractions from large to small. With `rows: methods` there is one row for each method, with
    whichever backbone and LLM it has in a column. `samples` gives the scores of a run's samples, by
    which rows are compared; without it nothing is said of differences. Raises TableError if no run
    matches the filters, if no run has one of the metrics, or if a cell would mix backbones or LLMs.
    """
    runs = sorted(_select(runs, spec), key=lambda run: run["seed"])
    found: dict[tuple[Row, Column], list[Run]] = {}
    for run in runs:
        backbone, llm = ("", "") if spec.rows == "methods" else (run["backbone"], run["llm"])
        row = Row(backbone, llm, run["method"])
        for name in _metrics(run, spec):
            column = Column(run["dataset"], run["split"], run["fraction"], name)
            found.setdefault((row, column), []).append(run)
    rows, columns = _in_order(runs, spec, found)
    cells = {
        (row, column): _cell(found.get((row, column), []), row, column, published or {})
        for row, column in product(rows, columns)
    }
    _check_unmixed(cells, spec.name)
    table = Table(spec, rows, columns, cells, notes=[])
    if samples is not None and spec.by is not None:
        table = with_parts(table, spec.by, samples)
    if samples is not None:
        table = with_comparisons(table, samples)
    notes = describe(table, runs, missing)
    if published is not None:
        notes.append("In brackets: the published mean.")
    return replace(table, notes=notes)


def _in_order(
    runs: Sequence[Run], spec: TableSpec, found: Mapping[tuple[Row, Column], Sequence[Run]]
) -> tuple[list[Row], list[Column]]:
    """The rows and columns that there are, in the order of the spec's lists."""
    order = {key: ordered((run[key] for run in runs), getattr(spec, f"{key}s")) for key in FILTERED}
    if not spec.fractions:
        order["fraction"].sort(key=_percent, reverse=True)
    splits = ordered(run["split"] for run in runs)
    listed = None if spec.metrics == "all" else spec.metrics
    metrics = ordered((name for run in runs for name in _metrics(run, spec)), listed)
    if spec.rows == "methods":
        order |= {"backbone": [""], "llm": [""]}
    every_row = starmap(Row, product(order["backbone"], order["llm"], order["method"]))
    every_column = starmap(Column, product(order["dataset"], splits, order["fraction"], metrics))
    known_rows, known_columns = {row for row, _ in found}, {column for _, column in found}
    rows = [row for row in every_row if row in known_rows]
    return rows, [column for column in every_column if column in known_columns]


def _cell(runs: Sequence[Run], row: Row, column: Column, published: Published) -> Cell:
    beside = published.get((row.method, column.dataset, column.fraction, column.metric))
    return Cell(runs, column.metric, scores_of(runs, column.metric), beside)


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
