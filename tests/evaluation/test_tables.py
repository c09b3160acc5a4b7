"""Tables over seeds, and the averages of the paper's published table."""

import random
from pathlib import Path
from statistics import stdev
from typing import Any

import pandas as pd
import pytest

from depalm.evaluation.averages import average_rank, average_score
from depalm.evaluation.render import FORMATS, write_table
from depalm.evaluation.runs import TableError
from depalm.evaluation.tables import build_table
from tests.support.scores import LABELS, make_run, saved, seeds_of
from tests.support.tables import SPEC, published_runs, rows_of, shown, table_spec


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
