"""What stands below a table."""

import re
from pathlib import Path
from typing import Any

import pytest

from depalm.evaluation.render import FORMATS
from depalm.evaluation.runs import TableError, read_runs
from depalm.evaluation.tables import build_table
from depalm.files import write_json
from tests.support.scores import make_run
from tests.support.tables import SPEC, rows_of, shown


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
