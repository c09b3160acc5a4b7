"""The scores of single samples behind the cells of a table: its columns for types of questions and
answers, and the comparisons of its rows.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from depalm.evaluation.cells import Cell, Column, Table
from depalm.evaluation.measured import Values
from depalm.evaluation.metrics import METRICS
from depalm.evaluation.runs import Run
from depalm.evaluation.samples import SampleScores, total
from depalm.evaluation.statistics import Comparison, Spread, compare, contributions

MOST_PARTS = 10  # columns for types; the others are left out
Load = Callable[[Run], SampleScores]


def with_parts(table: Table, by: str, load: Load) -> Table:
    """The table with a column for each of the most frequent types of `by` behind each column that
    is a mean over questions.
    """
    columns: list[Column] = []
    cells = dict(table.cells)
    for column in table.columns:
        columns.append(column)
        if METRICS[column.metric].of_sums is not None:
            continue
        for part in _types(table, column, by, load):
            columns.append(column._replace(part=part))
            for row in table.rows:
                cell = table.cells[row, column]
                scores = {
                    run["seed"]: total(column.metric, _in_part(load(run), column.metric, by, part))
                    for run in cell.runs
                    if run["seed"] in cell.scores
                }
                cells[row, columns[-1]] = Cell(cell.runs, column.metric, scores)
    return replace(table, columns=columns, cells=cells)


def _types(table: Table, column: Column, by: str, load: Load) -> list[str]:
    """The most frequent types of a column's samples."""
    runs = [run for row in table.rows for run in table.cells[row, column].runs]
    counts = Counter(load(runs[0]).types[by].to_pylist())
    return [name for name, _ in counts.most_common(MOST_PARTS) if name]


def _in_part(scores: SampleScores, metric: str, by: str, part: str) -> Values:
    return scores.of(metric)[pc.equal(scores.types[by], part).to_numpy(zero_copy_only=False)]


def with_comparisons(table: Table, load: Load) -> Table:
    """The table with its rows compared, in each column and in the average score."""
    spreads: dict[Column, Spread] = {}
    for tested in dict.fromkeys((column.dataset, column.split) for column in table.columns):
        columns = [column for column in table.columns if column[:2] == tested]
        common = _common([load(run) for run in _runs(table, columns)])
        for column in columns:
            found = _spread(table, column, common, load)
            if found is not None:
                spreads[column] = found
    compared = {column: compare([spread]) for column, spread in spreads.items()}
    return replace(table, compared=compared, overall=_overall(table, spreads))


def _runs(table: Table, columns: Sequence[Column]) -> list[Run]:
    cells = [table.cells[row, column] for row in table.rows for column in columns]
    return list({id(run): run for cell in cells for run in cell.runs}.values())


def _common(scores: Sequence[SampleScores]) -> pa.Array:
    """The samples that all have, in the order of the first."""
    common = scores[0].ids
    for other in scores[1:]:
        if not other.ids.equals(common):
            common = common.filter(pc.is_in(common, other.ids))
    return common


def _spread(table: Table, column: Column, common: pa.Array, load: Load) -> Spread | None:
    """The spread of a column's rows; None if it has no scores of samples."""
    by = table.spec.by
    rows: list[Values | None] = []
    for row in table.rows:
        cell, values = table.cells[row, column], []
        for run in cell.runs:
            if run["seed"] not in cell.scores:
                continue
            scores = load(run)
            kept = pc.is_in(scores.ids, common)
            if column.part and by is not None:
                kept = pc.and_(kept, pc.equal(scores.types[by], column.part))
            of = scores.of(column.metric)[kept.to_numpy(zero_copy_only=False)]
            values.append(contributions(of, METRICS[column.metric].of_sums))
        rows.append(np.array(values) if values else None)
    if all(row is None or not row.shape[1] for row in rows):
        return None
    return Spread.of(rows, [table.cells[row, column].mean for row in table.rows])


def _overall(table: Table, spreads: Mapping[Column, Spread]) -> Comparison | None:
    """The rows compared by their average score, with the best value of a column as it is.

    Columns of one dataset and split are on the same samples, those of others on samples of their
    own. A row that lacks a column is not compared.
    """
    averaged = table.averaged
    if not averaged or any(column not in spreads for column in averaged):
        return None
    best = {column: float(np.nanmax(spreads[column].means)) for column in averaged}
    if any(value <= 0 for value in best.values()):
        return None
    parts = []
    for tested in dict.fromkeys(column[:2] for column in averaged):
        columns = [column for column in averaged if column[:2] == tested]
        weights = [100 / best[column] / len(averaged) for column in columns]
        parts.append(Spread.total([spreads[column] for column in columns], weights))
    return compare(parts)


def loader(read: Load) -> Load:
    """Reads the scores of each run's samples once."""
    known: dict[int, SampleScores] = {}

    def load(run: Run) -> SampleScores:
        if id(run) not in known:
            known[id(run)] = read(run)
        return known[id(run)]

    return load
