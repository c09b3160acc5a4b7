"""Tables over seeds, their four formats, and the averages of the paper's published table."""

import csv
import io
import random
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from depalm.errors import DepalmError
from depalm.evaluation.averages import average_rank, average_score
from depalm.evaluation.grid import lay_out
from depalm.evaluation.render import FORMATS, write_table
from depalm.evaluation.runs import TableError, read_published, read_runs
from depalm.evaluation.samples import SampleScores, sample_file
from depalm.evaluation.tables import build_table
from depalm.files import write_json
from depalm.specs import TableSpec
from tests.support.scores import LABELS, make_run, sampled, saved, seeds_of

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
            row.method,
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


def test_averages_reproduce_every_published_value() -> None:
    runs, averages = published_runs()
    assert len(averages) == 11
    assert len(runs) == 11 * 10 - 6
    methods = list(dict.fromkeys(run["method"] for run in runs))
    rows = shown(runs, methods=methods)
    for title, name in (("Average score", "average_score"), ("Average rank", "average_rank")):
        assert [row[title] for row in rows] == [f"{averages.loc[m, name]:.1f}" for m in methods]
    c_attn = rows[-1]
    assert c_attn["coco CIDEr"] == "130.05"
    assert c_attn["coco 1% CIDEr"] == "81.38"
    assert c_attn["audiocaps SPIDEr"] == "–"


def test_ranks_are_competition_ranks_and_a_missing_value_is_last() -> None:
    means = pd.DataFrame({"x": [50.0, 50.0, 40.0, None], "y": [1.0, 2.0, 4.0, 3.0]})
    assert list(average_rank(means)) == [2.5, 2.0, 2.0, 3.0]
    assert list(average_score(means)) == [62.5, 75.0, 90.0, 37.5]


def test_a_column_that_nobody_has_does_not_count() -> None:
    means = pd.DataFrame({"x": [50.0, 25.0], "y": [None, None]})
    assert list(average_score(means)) == [100.0, 50.0]
    assert list(average_rank(means)) == [1.0, 2.0]


def test_mean_and_sample_deviation_over_seeds() -> None:
    values = {2: 70.25, 0: 77.125, 1: 75.5}
    runs = [
        make_run("qp_l0", value, seed=seed, train_seconds=1000.0 + 10 * seed)
        for seed, value in values.items()
    ]
    rows = shown([*runs, make_run("blind", 60.125, trainable_parameters=0)])
    assert rows == [
        {
            **{"Method": "Blind", "easy-vqa Accuracy": "60.12", "Seeds": "1"},
            **{"Trainable parameters": "0", "Train seconds": "100"},
        },
        {
            "Method": "DePALM QP,L0",
            "easy-vqa Accuracy": f"74.29 ± {stdev(values.values()):.2f}",
            "Seeds": "3",
            "Trainable parameters": "1,234,567",
            "Train seconds": "1,010",
        },
    ]
    blind, qp = rows_of(FORMATS["csv"](build_table([*runs, make_run("blind", 60.125)], SPEC)))
    assert float(qp["mean"]) == sum(values.values()) / 3  # full precision
    assert float(qp["std"]) == stdev(values.values())
    assert (qp["n"], qp["seeds"], qp["train_seconds"]) == ("3", "0 1 2", "1010.0")
    assert (blind["std"], blind["n"], blind["seeds"]) == ("", "1", "0")
    assert blind["method"] == "blind"
    assert blind["label"] == "Blind"


def test_what_was_predicted_of_a_training_stands_beside_what_it_took() -> None:
    """If it is known of every seed."""
    runs = [
        make_run("qp_l0", 70.0, seed=seed, train_seconds=100.0, train_seconds_predicted=value)
        for seed, value in enumerate((80.0, 90.0))
    ]
    table = build_table(runs, SPEC)
    assert "| 100 (predicted 85) |" in FORMATS["md"](table)
    assert rows_of(FORMATS["csv"](table))[0]["train_seconds_predicted"] == "85.0"
    older = build_table([*runs, make_run("qp_l0", 70.0, seed=2, train_seconds=100.0)], SPEC)
    assert "| 100 |" in FORMATS["md"](older)
    assert rows_of(FORMATS["csv"](older))[0]["train_seconds_predicted"] == ""


def test_rows_in_the_order_of_the_config_whatever_the_order_of_files() -> None:
    runs = [make_run(method, 50.0, seed=seed) for method in LABELS for seed in range(3)]
    expected = build_table(runs, SPEC)
    for seed in range(5):
        random.Random(seed).shuffle(runs)
        assert {name: form(build_table(runs, SPEC)) for name, form in FORMATS.items()} == {
            name: form(expected) for name, form in FORMATS.items()
        }
    rows = shown(runs, methods=["qp_l0", "blind", "limber_1"])
    assert [row["Method"] for row in rows] == ["DePALM QP,L0", "Blind", "LiMBeR(1)"]


def test_only_identities_that_vary_are_shown() -> None:
    runs = [make_run("blind", 50.0), make_run("blind", 40.0, llm="opt-125m")]
    assert [list(row)[:2] for row in shown(runs)] == [["LLM", "Method"]] * 2
    runs.append(make_run("blind", 30.0, backbone="clip-L"))
    rows = shown(runs)
    assert [(row["Backbone"], row["LLM"]) for row in rows] == [
        ("dinov2-S", "smollm2-135m"),
        ("dinov2-S", "opt-125m"),
        ("clip-L", "smollm2-135m"),
    ]
    assert "split" not in str(rows)
    runs.append(make_run("blind", 30.0, split="val"))
    assert "easy-vqa val Accuracy" in shown(runs)[0]


def test_fractions_stand_from_large_to_small_and_missing_cells_are_dashes() -> None:
    runs = [
        make_run("qp_l0", 60.0, fraction="1pct"),
        make_run("qp_l0", 77.0, seed=0),
        make_run("qp_l0", 79.0, seed=1),
        make_run("blind", 64.0),
    ]
    blind, qp = shown(runs)
    assert list(blind)[1:3] == ["easy-vqa Accuracy", "easy-vqa 1% Accuracy"]
    assert blind["easy-vqa 1% Accuracy"] == "–"
    assert (blind["Seeds"], qp["Seeds"]) == ("1", "1–2")
    assert (blind["Average rank"], qp["Average rank"]) == ("2.0", "1.0")
    lines = rows_of(FORMATS["csv"](build_table(runs, SPEC)))
    assert len(lines) == 2 * 2 + 2 * 2  # rows x columns, and two averages of each row
    missing = [line for line in lines if line["n"] == "0"]
    assert [(line["method"], line["fraction"], line["mean"]) for line in missing] == [
        ("blind", "1pct", "")
    ]
    averages = [line for line in lines if line["metric"] == "average_score"]
    assert [float(line["mean"]) for line in averages] == [50 * 64 / 78, 100.0]


def test_filters_choose_runs() -> None:
    runs = [
        make_run(method, 50.0, dataset=dataset, fraction=fraction)
        for method in LABELS
        for dataset in ("easy-vqa", "vqav2")
        for fraction in ("100pct", "10pct")
    ]
    rows = shown(runs, methods=["blind"], datasets=["vqav2"], fractions=["10pct"], llms=None)
    assert [list(row)[:2] for row in rows] == [["Method", "vqav2 10% Accuracy"]]
    both = shown(runs, datasets=["vqav2", "easy-vqa"], fractions=["10pct"])
    assert list(both[0])[1:3] == ["vqav2 10% Accuracy", "easy-vqa 10% Accuracy"]
    with pytest.raises(TableError, match=r"demo: none of 12 scores matches .*'opt-125m'"):
        shown(runs, llms=["opt-125m"])


def test_a_row_for_each_method_over_several_models() -> None:
    runs = [
        make_run("qp_l0", 70.0),
        make_run("qp_l0", 80.0, dataset="coco", backbone="eva-clip-L", llm="llama"),
        make_run("blind", 10.0, dataset="coco", backbone="disabled", llm="llama"),
    ]
    assert len(shown(runs)) == 3
    blind, qp = shown(runs, rows="methods")
    assert list(qp)[:3] == ["Method", "easy-vqa Accuracy", "coco Accuracy"]
    assert (qp["easy-vqa Accuracy"], qp["coco Accuracy"]) == ("70.00", "80.00")
    assert (blind["easy-vqa Accuracy"], blind["coco Accuracy"]) == ("–", "10.00")
    mixed = [*runs, make_run("qp_l0", 60.0, llm="opt-125m")]
    with pytest.raises(TableError, match=r"qp_l0 on easy-vqa .*dinov2-S\+opt-125m, .*smollm2"):
        shown(mixed, rows="methods")


def test_published_scores_stand_beside_ours(tmp_path: Path) -> None:
    (tmp_path / "published.csv").write_text(
        "method,dataset,fraction,metric,mean\n"
        "qp_l0,easy-vqa,100pct,vqa_accuracy,71.5\n"
        "blind,easy-vqa,100pct,vqa_accuracy,99\n"
        "qp_l0,,,average_score,95.7\n"
    )
    runs = [
        *seeds_of("qp_l0", 70.0, 70.0),
        *seeds_of("blind", 60.0, 60.0),
        *seeds_of("limber_1", 65.0, 65.0),
    ]
    outputs = [tmp_path / "demo.md", tmp_path / "demo.csv"]
    write_table(saved(tmp_path, runs), SPEC, outputs, tmp_path / "published.csv")
    text = outputs[0].read_text()
    # what is published is not in competition
    assert "| Blind | <ins>60.00 ± 0.00 [99.00]</ins><sup>c</sup> |" in text
    assert "| **70.00 ± 0.00 [71.50]**<sup>a</sup> |" in text
    assert "| LiMBeR(1) | *65.00 ± 0.00*<sup>b</sup> |" in text
    assert "In brackets: the published mean." in text
    assert [row["published"] for row in rows_of(outputs[1].read_text())] == ["99.0", "", "71.5"]


def test_metrics_of_a_table() -> None:
    metrics = {"cider": 90.0, "bleu_4": 30.0, "meteor": 25.0}
    runs = [make_run("blind", None, metrics=metrics, primary_metric="cider")]
    assert list(shown(runs)[0])[1] == "easy-vqa CIDEr"
    titles = ["easy-vqa CIDEr", "easy-vqa BLEU-4", "easy-vqa METEOR"]
    assert list(shown(runs, metrics="all")[0])[1:4] == titles
    assert list(shown(runs, metrics=["bleu_4", "cider"])[0])[1:3] == titles[1::-1]
    other = make_run("blind", None, dataset="vqav2", metrics={"cider": 1.0})
    both = list(shown([other, *runs], metrics=["bleu_4", "cider"])[0])
    assert both[1:4] == ["vqav2 CIDEr", "easy-vqa BLEU-4", "easy-vqa CIDEr"]
    with pytest.raises(TableError, match="no run has the metric rouge_l"):
        shown(runs, metrics=["cider", "rouge_l"])


def test_unavailable_metrics_say_why() -> None:
    audio = {
        "dataset": "audiocaps",
        "primary_metric": "spider",
        "unavailable": {"spider": "no jar"},
    }
    runs = [
        make_run("blind", None, metrics={"spider": None}, **audio),
        make_run("blind", 64.0),
        make_run("qp_l0", 77.0),
    ]
    table = build_table(runs, SPEC)
    assert "audiocaps, SPIDEr: no jar." in table.notes
    blind, qp = shown(runs)
    assert blind["audiocaps SPIDEr"] == qp["audiocaps SPIDEr"] == "–"
    assert (blind["Average rank"], qp["Average score"]) == ("2.0", "100.0")
    line = rows_of(FORMATS["csv"](table))[0]
    assert (line["dataset"], line["mean"], line["unavailable"]) == ("audiocaps", "", "no jar")


PARTS = ["commit", "commit", "device", "torch"]


def test_mixed_steps_test_sets_and_precisions_are_noted() -> None:
    runs = [
        make_run("blind", 1.0, train_dtype="bfloat16", generate_dtype="float32"),
        make_run("qp_l0", 2.0, steps=20, train_dtype="bfloat16", generate_dtype="bfloat16"),
        make_run("qp_l0", 2.0, seed=1, samples=7, train_dtype="bfloat16", generate_dtype="float32"),
        make_run("qp_l0", 2.0, dataset="coco", steps=99, samples=8, rejects=2),
    ]
    notes = [note for note in build_table(runs, SPEC).notes if note.startswith("Mixed settings")]
    assert notes == [
        "Mixed settings: on easy-vqa, 100% the runs differ in training steps: 10 (2 runs), "
        "20 (1 run).",
        "Mixed settings: on easy-vqa, 100% the runs differ in samples of test: 10 (2 runs), "
        "7 (1 run).",
        "Mixed settings: the runs differ in the LLM's precision in training: bfloat16 (3 runs), "
        "unknown (1 run).",
        "Mixed settings: the runs differ in the LLM's precision in generation: float32 (2 runs), "
        "bfloat16 (1 run), unknown (1 run).",
    ]


def test_only_the_main_metrics_of_datasets_are_averaged() -> None:
    """BLEU and METEOR of the same captions would count them again."""

    def captions(method: str, dataset: str, cider: float, bleu: float) -> dict[str, Any]:
        metrics = {"cider": cider, "bleu_4": bleu}
        return make_run(method, None, dataset=dataset, metrics=metrics, primary_metric="cider")

    one = [captions("blind", "coco", 10.0, 90.0), captions("qp_l0", "coco", 20.0, 30.0)]
    [blind, _] = shown(one, metrics="all")
    assert "coco BLEU-4" in blind
    assert "Average score" not in blind
    two = [*one, captions("blind", "textcaps", 5.0, 9.0), captions("qp_l0", "textcaps", 5.0, 1.0)]
    table = build_table(two, table_spec(metrics="all"))
    assert [(c.dataset, c.metric) for c in table.averaged] == [
        ("coco", "cider"),
        ("textcaps", "cider"),
    ]
    [blind, qp] = shown(two, metrics="all")
    assert (blind["Average score"], qp["Average score"]) == ("75.0", "100.0")
    assert any("the main metric of each dataset" in note for note in table.notes)


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


def test_a_heading_is_not_broken_at_the_hyphen_of_a_metric() -> None:
    metrics = {"cider": 1.0, "bleu_4": 2.0}
    runs = [make_run("blind", None, metrics=metrics, primary_metric="cider", dataset="a<b-c")]
    page = FORMATS["html"](build_table(runs, table_spec(metrics="all")))
    heading = '<span class="whole">a&lt;b-c</span> <span class="whole">BLEU-4</span></th>'
    assert heading in page
    assert ".whole { white-space: nowrap; }" in page


def test_missing_runs_are_named() -> None:
    table = build_table([make_run("blind", 1.0)], SPEC, missing=["a (it has no scores)"])
    assert table.notes[0] == "Incomplete: 1 run is missing: a (it has no scores)."
    many = [f"run{i} (it has no scores)" for i in range(30)]
    note = build_table([make_run("blind", 1.0)], SPEC, missing=many).notes[0]
    assert note.startswith("Incomplete: 30 runs are missing: run0 (it has no scores); run1 ")
    assert note.endswith("run19 (it has no scores); and 10 more.")


def test_methods_without_scores_and_mixed_origins_are_noted() -> None:
    runs = [make_run("blind", 50.0, seed=seed) for seed in range(3)]
    notes = " ".join(build_table(runs, SPEC).notes)
    assert "No scores of limber_1, qp_l0." in notes
    assert "Mixed" not in notes
    changes: list[dict[str, Any]] = [
        {"commit": "d" * 40},
        {"commit": "c" * 40 + "+dirty"},
        {"device": "a GPU"},
        {"versions": {"torch": "3.0"}},
    ]
    for change, part in zip(changes, PARTS, strict=True):
        mixed = build_table([*runs, make_run("blind", 50.0, seed=3, **change)], SPEC)
        assert len(mixed.notes) == len(build_table(runs, SPEC).notes) + 1
        assert re.search(rf"differ in {part}: .* \(3 runs\), .* \(1 run\)\.", mixed.notes[-1])


def test_seeds_with_different_configurations_are_noted_and_methods_are_not() -> None:
    runs = [make_run("blind", 50.0, seed=0), make_run("qp_l0", 50.0, config_sha256="0" * 64)]
    assert "configuration" not in " ".join(build_table(runs, SPEC).notes)
    other = make_run("blind", 50.0, seed=1, config_sha256="1" * 64)
    assert re.search(
        r"seeds of .*blind differ in config", build_table([*runs, other], SPEC).notes[-1]
    )


def test_a_run_with_two_different_scores_is_an_error(tmp_path: Path) -> None:
    for name, value in {"a": 50.0, "b": 50.0, "c": 51.0}.items():
        write_json(tmp_path / f"{name}.json", make_run("blind", value))
    assert len(read_runs([tmp_path / "a.json", tmp_path / "b.json"])) == 1
    with pytest.raises(TableError, match=r"a\.json and .*c\.json are different scores of the same"):
        read_runs(tmp_path / f"{name}.json" for name in "abc")
    write_json(tmp_path / "d.json", {"dataset": "easy-vqa"})
    with pytest.raises(TableError, match=r"d\.json has no split, fraction, .*seed"):
        read_runs([tmp_path / "d.json"])


class Cells(HTMLParser):
    """The texts of a page's cells, row by row, and which of them are bold."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.bold: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert {name for name, _ in attrs} <= {"lang", "charset", "name", "content", "class"}
        if tag != "meta":
            self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.tags):
            self.rows[-1][-1] += data
        if "strong" in self.tags:
            self.bold.append(data)


AWKWARD = [
    *seeds_of("blind", 64.0, 64.0, label="a|b & <c>_d 100%"),
    *seeds_of("limber_1", 70.0, 70.0),
    *seeds_of("qp_l0", 76.999, 77.001),
]


def test_formats_show_the_same_cells_with_the_same_marks() -> None:
    table = build_table(AWKWARD, table_spec(title="A & B <1>"), samples=sampled)
    grid = lay_out(table)
    texts = [[entry.text for entry in row] for row in grid.rows]
    assert texts[0][0] == "a|b & <c>_d 100%"
    assert [row[1] for row in texts] == ["64.00 ± 0.00", "70.00 ± 0.00", "77.00 ± 0.00"]
    assert [row[1].place for row in grid.rows] == [3, 2, 1]
    assert [row[1].letters for row in grid.rows] == ["c", "b", "a"]

    page = Cells()
    page.feed(FORMATS["html"](table))
    lettered = [[entry.text + entry.letters for entry in row] for row in grid.rows]
    assert page.rows == [grid.header, *lettered]
    assert page.bold == ["77.00 ± 0.00"]
    assert "<em>70.00 ± 0.00</em><sup>b</sup>" in FORMATS["html"](table)
    assert "<u>64.00 ± 0.00</u><sup>c</sup>" in FORMATS["html"](table)
    assert page.tags == []

    markdown = FORMATS["md"](table)
    lines = [line for line in markdown.split("\n") if line.startswith("|")]
    cells = [re.split(r" (?<!\\)\| ", line[2:-2]) for line in lines]
    assert {len(row) for row in cells} == {len(grid.header)}
    assert [re.sub(r"\\(.)", r"\1", row[0]) for row in cells[2:]] == [row[0] for row in texts]
    assert re.findall(r"\*\*(\d.*?)\*\*", markdown) == page.bold
    assert "| *70.00 ± 0.00*<sup>b</sup> |" in markdown

    latex = FORMATS["tex"](table)
    body = latex.split("\\midrule\n")[1].split("\\bottomrule")[0].rstrip("\n").split("\n")
    first = r"a|b \& <c>\_d 100\% & \underline{64.00 $\pm$ 0.00}$^{c}$ & 2 & "
    assert body[0].startswith(first)
    assert [len(re.split(r"(?<!\\)&", line)) for line in body] == [len(grid.header)] * 3
    assert re.findall(r"\\textbf{(.*?)}", latex) == [r"77.00 $\pm$ 0.00"]
    assert r"\caption{A \& B <1>}" in latex
    assert r"\begin{tabular}{lrrrr}" in latex


def test_names_are_neither_formulas_nor_line_breaks_nor_links() -> None:
    label = "=HYPERLINK(1)"
    runs = [make_run("blind", 50.0, label=label), make_run("qp_l0", 60.0, label="two\nlines")]
    table = build_table(runs, table_spec(title="[a](https://host)\nb"))
    rows = rows_of(FORMATS["csv"](table))
    assert [row["label"] for row in rows[:2]] == [f"'{label}", "two\nlines"]
    assert [float(row["mean"]) for row in rows[:2]] == [50, 60]
    markdown, latex = FORMATS["md"](table), FORMATS["tex"](table)
    assert markdown.startswith("**[a]\\(https://host) b**\n")
    assert "| two lines |" in markdown.replace("**", "")
    assert "two lines &" in latex.replace("}", "")
    assert r"\caption{[a](https://host) b}" in latex


def test_every_output_is_written_in_its_format(tmp_path: Path) -> None:
    paths = saved(tmp_path, AWKWARD)
    outputs = [tmp_path / "tables" / f"demo.{name}" for name in FORMATS]
    write_table(paths, SPEC, outputs)
    table = build_table(AWKWARD, SPEC, samples=sampled)
    for output, render in zip(outputs, FORMATS.values(), strict=True):
        assert output.read_text() == render(table)
    assert sorted(path.name for path in outputs[0].parent.iterdir()) == [
        *("demo.csv", "demo.html", "demo.md", "demo.pairs.csv", "demo.tex")
    ]
    sample_file(paths[0]).unlink()
    with pytest.raises(TableError, match=r"0\.samples\.parquet has no scores of samples"):
        write_table(paths, SPEC, outputs)


def test_published_scores_that_cannot_be_read_are_told_with_their_line(tmp_path: Path) -> None:
    path, header = tmp_path / "published.csv", "method,dataset,fraction,metric,mean\n"
    for content, message in (
        (f"{header}a,b,1pct,cider,x\n", "line 2: not method, dataset, fraction, metric, mean"),
        (f"{header}a,b,1pct,cider,1\na,b,1pct,cider,2\n", "line 3: a second row of a b 1pct cid"),
        ("method,dataset,fraction,metric\na,b,1pct,cider\n", "line 2: not method"),
        ("method,method,dataset,mean\n", "line 1: the header has method twice"),
    ):
        path.write_text(content)
        with pytest.raises(DepalmError, match=message):
            read_published(path)


def test_what_was_chosen_for_a_method_is_noted() -> None:
    """Once for all its seeds; and that others were not tuned."""
    told = {"candidates": {"lr": [1e-3, 1e-2]}, "held_out": 480, "steps_spent": 1200}
    tuned = [
        make_run(method, 70.0, seed=seed, tuned={"chosen": {"lr": rate}, **told})
        for method, rate in (("blind", 1e-2), ("qp_l0", 1e-3))
        for seed in (0, 1)
    ]
    notes = build_table(tuned, SPEC).notes
    (note,) = [note for note in notes if note.startswith("Tuned")]
    assert note == (
        "Tuned, each method on the same budget of 1,200 steps: learning rate of 0.001, 0.01, by "
        "the loss on 480 training samples that were held out (successive halving). Chosen were "
        "Blind (easy-vqa 100%, dinov2-S, smollm2-135m): learning rate 0.01; "
        "DePALM QP,L0 (easy-vqa 100%, dinov2-S, smollm2-135m): learning rate 0.001."
    )
    mixed = build_table([*tuned, make_run("limber_1", 60.0)], SPEC).notes
    assert "Mixed settings: 4 of 5 runs were tuned." in mixed
