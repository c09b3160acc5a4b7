"""What a table says of the tests between its rows."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from depalm.evaluation.grid import lay_out
from depalm.evaluation.render import FORMATS
from depalm.evaluation.samples import SampleScores
from depalm.evaluation.tables import build_table
from tests.support.scores import sampled, seeds_of
from tests.support.tables import SPEC, rows_of, table_spec


def marks(runs: list[dict[str, Any]], **spec: Any) -> list[tuple[str, int | None, str]]:
    grid = lay_out(build_table(runs, table_spec(**spec), samples=sampled))
    return [tuple(row[1]) for row in grid.rows]


def test_no_row_is_called_better_but_by_the_test() -> None:
    alike = [*seeds_of("blind", 70, 71, 69), *seeds_of("limber_1", 70.5, 72, 69.5)]
    assert marks(alike) == [("70.00 ± 1.00", None, ""), ("70.67 ± 1.26", None, "")]
    runs = [*alike, *seeds_of("qp_l0", 80, 81, 79)]
    assert marks(runs) == [
        ("70.00 ± 1.00", 2, "b"),
        ("70.67 ± 1.26", 2, "b"),
        ("80.00 ± 1.00", 1, "a"),
    ]
    # one seed is no test, however high; nor are scores without those of samples
    runs = [*alike, *seeds_of("qp_l0", 99)]
    assert marks(runs)[2] == ("99.00", None, "")
    assert lay_out(build_table(alike, SPEC)).rows[0][1] == ("70.00 ± 1.00", None, "")
    notes = build_table(runs, SPEC, samples=sampled).notes
    assert any("no two rows of a column can be told apart" in note for note in notes)
    assert any("Without a test: a row with one seed" in note for note in notes)
    assert any("were not tested" in note for note in build_table(runs, SPEC).notes)


def test_a_row_between_two_shares_a_letter_with_both() -> None:
    runs = [
        *seeds_of("blind", 70, 71, 69),
        *seeds_of("limber_1", 72.4, 73.4, 71.4),
        *seeds_of("qp_l0", 75, 76, 74),
    ]
    assert [(place, letters) for _, place, letters in marks(runs)] == [
        (2, "b"),
        (1, "ab"),
        (1, "a"),
    ]


def test_the_average_score_is_tested_over_all_columns() -> None:
    """Two datasets that tell nothing alone do so together."""
    runs = [
        run
        for dataset in ("a", "b", "c")
        for method, value in (("blind", 70.0), ("qp_l0", 72.2))
        for run in seeds_of(method, value, value + 1, value - 1, dataset=dataset)
    ]
    table = build_table(runs, table_spec(), samples=sampled)
    assert [len(set(comparison.letters)) for comparison in table.compared.values()] == [1, 1, 1]
    assert table.overall is not None
    assert table.overall.letters == ["b", "a"]
    grid = lay_out(table)
    place = grid.header.index("Average score")
    assert [row[place][1:] for row in grid.rows] == [(2, "b"), (1, "a")]
    rows = rows_of(FORMATS["csv"](table))
    [best] = [r for r in rows if r["metric"] == "average_score" and r["method"] == "qp_l0"]
    assert (best["place"], best["letters"]) == ("1", "a")
    assert float(best["low"]) < float(best["mean"]) < float(best["high"])


def test_columns_for_types_of_questions() -> None:
    runs = [*seeds_of("blind", 50, 51), *seeds_of("qp_l0", 70, 71)]
    table = build_table(runs, table_spec(by="answer_type"), samples=sampled)
    assert [column.part for column in table.columns] == ["", "yes/no", "other"]
    grid = lay_out(table)
    assert grid.header[1:4] == [f"easy-vqa Accuracy{part}" for part in ("", ", yes/no", ", other")]
    scores = sampled(runs[0])
    kept = np.arange(400) % 4 > 0
    cell = table.cells[table.rows[0], table.columns[1]]
    assert cell.scores[0] == pytest.approx(scores.scores["vqa_accuracy"][kept].mean())
    assert table.averaged == []
    assert len(table.compared) == 3
    rows = rows_of(FORMATS["csv"](table))
    assert [row["part"] for row in rows] == ["", "yes/no", "other"] * 2


def test_intervals_and_seeds_beside_a_mean() -> None:
    runs = [*seeds_of("blind", 70, 71), *seeds_of("qp_l0", 60)]
    [(text, _, _), (single, _, _)] = marks(runs, spread="interval", per_seed=True)
    mean, low, high, first, second = map(float, re.findall(r"[\d.]+", text))
    assert (mean, first, second) == (70.5, 70, 71)
    assert low < 70 < 71 < high
    assert re.fullmatch(r"60\.00 \(\d\d\.\d\d to \d\d\.\d\d\)", single)
    row = rows_of(FORMATS["csv"](build_table(runs, SPEC, samples=sampled)))[0]
    assert [float(value) for value in row["values"].split()] == [70, 71]
    assert (f"{float(row['low']):.2f}", f"{float(row['high']):.2f}") == (
        f"{low:.2f}",
        f"{high:.2f}",
    )


def test_pairs_of_rows() -> None:
    runs = [
        *seeds_of("blind", 70, 71, 69),
        *seeds_of("limber_1", 70.5, 72, 69.5),
        *seeds_of("qp_l0", 80, 81, 79),
    ]
    rows = rows_of(FORMATS["pairs.csv"](build_table(runs, SPEC, samples=sampled)))
    assert [(r["first"], r["second"], r["better"]) for r in rows] == [
        ("dinov2-S/smollm2-135m/blind", "dinov2-S/smollm2-135m/limber_1", ""),
        ("dinov2-S/smollm2-135m/blind", "dinov2-S/smollm2-135m/qp_l0", "second"),
        ("dinov2-S/smollm2-135m/limber_1", "dinov2-S/smollm2-135m/qp_l0", "second"),
    ]
    assert float(rows[1]["difference"]) == pytest.approx(-10)
    assert float(rows[1]["low"]) < -10 < float(rows[1]["high"]) < 0
    assert float(rows[1]["p"]) < 0.05 < float(rows[0]["p"])
    assert int(rows[1]["seeds_needed"]) <= 3 < int(rows[0]["seeds_needed"])


def test_samples_that_one_run_lacks_do_not_count_in_the_test() -> None:
    def lacking(run: Mapping[str, Any]) -> SampleScores:
        whole = sampled(run)
        if run["method"] == "blind":
            return whole
        kept = np.arange(400) != 7
        scores = {name: values[kept] for name, values in whole.scores.items()}
        types = {name: values.filter(pa.array(kept)) for name, values in whole.types.items()}
        return SampleScores(whole.ids.filter(pa.array(kept)), types, scores, {})

    runs = [*seeds_of("blind", 70, 71, 69), *seeds_of("qp_l0", 80, 81, 79)]
    [comparison] = build_table(runs, SPEC, samples=lacking).compared.values()
    assert comparison.letters == ["b", "a"]
