"""Caption metrics (real Java programs), what they need, and scores.json."""

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from depalm.datasets.manifest import Sample
from depalm.evaluation.java import MetricError
from depalm.evaluation.measured import Measured
from depalm.evaluation.metrics import (
    METRICS,
    Score,
    measure,
    require,
    score,
    unavailable,
)
from depalm.evaluation.programs import cider, meteor, rouge_l, spice, tokenize
from depalm.evaluation.runs import TableError
from depalm.evaluation.samples import (
    read_sample_scores,
    total,
    write_predictions,
    write_sample_scores,
)
from depalm.evaluation.scores import Evaluation, evaluate, read_texts
from depalm.files import read_json, write_json

CAPTION_METRICS = ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "cider"]
REFERENCES = {
    "a": ["A man rides a brown horse.", "a person on a horse"],
    "b": ["Two dogs play in the snow", "dogs are playing outside in snow", "a pair of dogs"],
    "c": ["A red bus, parked near the station!"],
    "d": ["a cat sleeps on the sofa"],
    "e": ["a kite in the sky"],
}
PREDICTIONS = {
    "a": "a man riding a horse",
    "b": "two dogs playing in the snow",
    "c": "a red bus parked near a station",
    "d": "a dog runs in the park",
    "e": "",
}
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="no Java on the PATH")


@needs_java
def test_scores_equal_those_of_the_official_evaluation() -> None:
    """Golden values: pycocoevalcap 1.2 with its own tokenizer and METEOR classes.

    BLEU-1 is 18 right of 24 words, times exp(1 - 29 / 24) for being shorter than the references.
    """
    scores = score(REFERENCES, PREDICTIONS, CAPTION_METRICS)
    assert scores == pytest.approx(
        {
            "bleu_1": 60.89522595622302,
            "bleu_2": 47.16923919820135,
            "bleu_3": 35.61174417334911,
            "bleu_4": 27.96002895074215,
            "meteor": 32.15280767185199,
            "rouge_l": 54.78704091607318,
            "cider": 215.83319859563454,
        },
        abs=1e-6,
    )
    assert list(scores) == CAPTION_METRICS
    backwards = dict(reversed(PREDICTIONS.items()))
    fast = [name for name in CAPTION_METRICS if name != "meteor"]
    assert score(REFERENCES, backwards, fast) == {name: scores[name] for name in fast}


@needs_java
def test_samples_make_the_scores_of_all_and_of_any_part() -> None:
    """Corpus BLEU and METEOR of a part are those that the official programs give the part."""
    found = measure(REFERENCES, PREDICTIONS, CAPTION_METRICS)
    keys = list(REFERENCES)
    for kept in ([1, 3, 4], [4], [0, 0, 1]):  # of each, programs start anew
        names = {f"{place}{i}": keys[i] for place, i in enumerate(kept)}
        references = {name: REFERENCES[key] for name, key in names.items()}
        predictions = {name: PREDICTIONS[key] for name, key in names.items()}
        official = score(references, predictions, CAPTION_METRICS[:5])
        for name in CAPTION_METRICS[:5]:
            counts = found[name].counts
            assert counts is not None
            assert total(name, counts[kept]) == pytest.approx(official[name], abs=1e-9)
    alone = score({"a": REFERENCES["a"]}, {"a": PREDICTIONS["a"]}, CAPTION_METRICS[:5])
    for name in CAPTION_METRICS[:5]:
        assert found[name].samples[0] == pytest.approx(alone[name], abs=1e-9)
        assert total(name, np.asarray(found[name].counts)) == pytest.approx(found[name].value)
    for name in CAPTION_METRICS[5:]:
        assert found[name].counts is None
        assert total(name, found[name].samples) == pytest.approx(found[name].value)


@needs_java
def test_a_perfect_caption_has_no_broken_meteor() -> None:
    found = measure({"a": ["a kite in the sky"]}, {"a": "a kite in the sky"}, ["meteor"])["meteor"]
    assert found.value == 100.0
    assert total("meteor", found.counts) == 100.0  # type: ignore[arg-type]


@needs_java
def test_perfect_and_empty_predictions() -> None:
    fast = [name for name in CAPTION_METRICS if name != "meteor"]
    scores = score(REFERENCES, {key: texts[0] for key, texts in REFERENCES.items()}, fast)
    assert scores.pop("cider") > 500
    assert scores == pytest.approx(dict.fromkeys(scores, 100.0))
    empty = score(REFERENCES, dict.fromkeys(REFERENCES, ""), fast)
    assert empty == pytest.approx(dict.fromkeys(fast, 0.0), abs=1e-6)


def test_cider_of_identical_captions_without_shared_words_is_ten() -> None:
    references = {"a": ["one two three four five"], "b": ["six seven eight nine ten"]}
    predictions = {key: texts[0] for key, texts in references.items()}
    assert cider(references, predictions).scores == [pytest.approx(10)]


def test_rouge_l_of_a_common_subsequence() -> None:
    # "a ... the" in six words against six: precision, recall and so F are 1/3
    references = {"a": ["a cat sleeps on the sofa"]}
    assert rouge_l(references, {"a": "a dog runs in the park"}).scores == [pytest.approx(1 / 3)]


@needs_java
def test_tokens_are_lower_case_words_without_punctuation() -> None:
    references, predictions = tokenize(
        {"x": ['A man\'s "Café" (open) -- in 東京...', "It isn't."]}, {"x": "Two  dogs, running!"}
    )
    assert references == {"x": ["a man 's café -lrb- open -rrb- in 東京", "it is n't"]}
    assert predictions == {"x": "two dogs running"}


@needs_java
@pytest.mark.parametrize(("language", "country"), [("de", "DE"), ("tr", "TR")])
def test_the_language_of_the_machine_changes_no_score(
    monkeypatch: pytest.MonkeyPatch, language: str, country: str
) -> None:
    """German writes 0,5 for a half, and Turkish another i for a small I."""
    references = {"a": ["TITLE in IRON"], "b": ["a man rides a big horse"]}
    predictions = {"a": "title in iron", "b": "a man is riding a horse"}
    metrics = ["meteor", "bleu_1", "cider"]
    expected = score(references, predictions, metrics)
    options = f"-Duser.language={language} -Duser.country={country}"
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", options)
    assert score(references, predictions, metrics) == expected


@needs_java
def test_line_separators_do_not_shift_later_captions() -> None:
    separators = ["\n", "\r\n", "\r", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"]
    references = {str(i): [f"a{mark}cat", "", "the end"] for i, mark in enumerate(separators)}
    predictions = {str(i): f"  a{mark}dog{mark}" for i, mark in enumerate(separators)}
    tokens = tokenize(references, predictions)
    assert tokens[0] == {key: ["a cat", "", "the end"] for key in references}
    assert tokens[1] == dict.fromkeys(references, "a dog")


def test_without_java_caption_metrics_say_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MetricError, match=r"cider, meteor: .*Install a Java runtime"):
        require(["vqa_accuracy", "cider", "meteor"])
    with pytest.raises(MetricError, match="Java"):
        score(REFERENCES, PREDICTIONS, ["bleu_4"])
    require(["vqa_accuracy"])
    assert score({"q": ["red"]}, {"q": "red"}, ["vqa_accuracy"]) == {"vqa_accuracy": 100.0}


def test_unknown_metric_is_named_with_the_known_ones() -> None:
    with pytest.raises(MetricError, match=r"unknown metric ciderr; known: vqa_accuracy, .*cider"):
        require(["ciderr"])


def fake_java(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Put a Python program called java first on the PATH."""
    program = folder / "java"
    program.write_text(f"#!{sys.executable}\nimport json, sys\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize(
    "body",
    [
        "sys.exit('no heap left')",
        "sys.stdin.readline(); print('1.0 2.0', flush=True); sys.exit('no heap left')",
    ],
)
def test_a_java_program_that_dies_is_an_error_with_its_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    fake_java(tmp_path, monkeypatch, body)
    with pytest.raises(MetricError, match="METEOR's Java program failed: no heap left"):
        meteor(REFERENCES, PREDICTIONS)
    with pytest.raises(MetricError, match=r"PTBTokenizer.* failed: no heap left|made 1 lines of"):
        tokenize(REFERENCES, PREDICTIONS)
    assert not psutil.Process().children(recursive=True)


def test_a_java_program_that_gives_no_answer_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_java(tmp_path, monkeypatch, "import time; sys.stdin.readline(); time.sleep(600)")
    monkeypatch.setattr("depalm.evaluation.java.DEADLINE", 1.0)
    with pytest.raises(MetricError, match="METEOR's Java program failed: it gave no answer in 1 s"):
        meteor(REFERENCES, PREDICTIONS)
    assert not psutil.Process().children(recursive=True)


def test_spice_reads_what_the_program_writes_and_runs_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = """
rows = json.load(open(sys.argv[7]))
assert rows[1] == {"image_id": 1, "test": "a dog", "refs": ["dog", "the dog"]}
scores = [{"image_id": row["image_id"], "scores": {"All": {"f": 0.25 * (1 + row["image_id"])}}}
          for row in rows]
json.dump(scores, open(sys.argv[9], "w"))
"""
    fake_java(tmp_path, monkeypatch, body)
    references = {"x": ["a cat"], "y": ["dog", "the dog"]}
    predictions = {"x": "a cat", "y": "a dog"}
    found = spice(references, predictions)
    assert found.scores == [pytest.approx((0.25 + 0.5) / 2)]
    assert found.samples[:, 0].tolist() == [0.25, 0.5]
    calls = []

    def counted(*texts: Any) -> Measured:
        calls.append(texts)
        return spice(*texts)

    monkeypatch.setattr("depalm.evaluation.metrics.tokenize", lambda *texts: texts)
    for name, changes in {"spice": {"compute": counted}, "spider": {}}.items():
        changed = dataclasses.replace(METRICS[name], models=(), **changes)
        monkeypatch.setitem(METRICS, name, changed)
    scores = score(references, predictions, ["spider", "cider", "spice"])
    assert scores["spice"] == pytest.approx(37.5)
    assert scores["spider"] == pytest.approx((scores["cider"] + scores["spice"]) / 2)
    assert scores["cider"] == pytest.approx(100 * cider(references, predictions).scores[0])
    assert len(calls) == 1


def without_models(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for name in ("spice", "spider"):
        metric = dataclasses.replace(METRICS[name], models=(folder / "models.jar",))
        monkeypatch.setitem(METRICS, name, metric)


@needs_java
def test_a_metric_without_its_models_is_not_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_models(monkeypatch, tmp_path)
    reasons = unavailable(["cider", "spice", "spider"])
    assert list(reasons) == ["spice", "spider"]
    assert "models.jar" in reasons["spice"]
    with pytest.raises(MetricError, match=r"spider: needs models.jar"):
        score(REFERENCES, PREDICTIONS, ["spider"])
    (tmp_path / "models.jar").touch()
    assert unavailable(["spice"]) == {}


@pytest.mark.parametrize(
    ("references", "predictions", "message"),
    [
        ({}, {}, "no prediction to score"),
        ({"a": ["x"]}, {"b": "x"}, "a, b"),
        ({"a": []}, {"a": "x"}, "without any reference cannot be scored: a"),
        ({str(i): ["x"] for i in range(9)}, {}, "0, 1, 2, 3, 4 and 4 more"),
    ],
)
def test_samples_that_cannot_be_scored(
    references: dict[str, list[str]], predictions: dict[str, str], message: str
) -> None:
    with pytest.raises(MetricError, match=message):
        score(references, predictions, ["vqa_accuracy"])


RUN = {
    **{"dataset": "easy-vqa", "split": "test", "fraction": "10pct", "backbone": "dinov2-S"},
    **{"llm": "smollm2-135m", "method": "qp_l0", "label": "DePALM QP,L0", "seed": 3},
}
GENERATED = {"generate_seconds": 2.5, "samples": 2, "rejects": 1, "device": "a CPU"}
TRAINED = {
    "dtype": "bfloat16",
    **{"trainable_parameters": 1234, "train_seconds": 60.5, "steps": 10, "samples_seen": 320},
    **{"rejects": 4, "device": "a GPU", "versions": {"torch": "2.9"}, "commit": "abc"},
    **{"config_sha256": "f00", "final_loss": 0.5, "expected": {"seconds": 55.0}},
}
ANSWERS = {"q1": ["red"], "q2": ["blue"], "q3": ["yes"]}


MANIFEST = [Sample(key, f"{key}.jpg", f"{key}?", texts) for key, texts in ANSWERS.items()]


def texts_file(path: Path, predictions: dict[str, str]) -> Path:
    rows = [{"id": key, "prediction": text} for key, text in predictions.items()]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def run_evaluate(path: Path, metrics: list[str] | None = None, rejects: int = 1) -> Evaluation:
    generated = {**GENERATED, "rejects": rejects}
    return evaluate(RUN, metrics or ["vqa_accuracy"], MANIFEST, path, generated, TRAINED)


def test_scores_carry_the_run_its_cost_and_its_origin(tmp_path: Path) -> None:
    path = texts_file(tmp_path / "p.jsonl", {"q1": "red", "q3": "no"})
    scores = run_evaluate(path).summary
    assert scores == {
        **RUN,
        "metrics": {"vqa_accuracy": 50.0},
        "primary_metric": "vqa_accuracy",
        "samples": 2,
        "rejects": 1,
        "train_rejects": 4,
        "media_in_train": None,
        **{
            key: TRAINED[key]
            for key in TRAINED.keys() - {"rejects", "final_loss", "dtype", "expected"}
        },
        "train_dtype": "bfloat16",
        "generate_dtype": None,  # as before it was told
        "generate_seconds": 2.5,
        "generate_device": "a CPU",
        "train_seconds_predicted": 55.0,
        "generate_seconds_predicted": None,  # as before it was told
    }
    write_json(tmp_path / "scores.json", scores)
    assert read_json(tmp_path / "scores.json") == scores


@needs_java
def test_unavailable_metrics_are_null_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_models(monkeypatch, tmp_path)
    path = texts_file(tmp_path / "p.jsonl", {"q1": "red", "q2": "blue"})
    scores = run_evaluate(path, ["spider", "vqa_accuracy"]).summary
    assert scores["metrics"] == {"spider": None, "vqa_accuracy": 100.0}
    assert scores["primary_metric"] == "spider"
    assert "models.jar" in scores["unavailable"]["spider"]


@pytest.mark.parametrize(
    ("predictions", "rejects", "message"),
    [
        ({"q1": "red", "q9": "x"}, 2, "ids that the manifest lacks: q9"),
        ({"q1": "red"}, 1, r"2 samples .* have no prediction \(q2, q3\), .* rejected 1"),
        ({"q1": "red", "q2": "x", "q3": "x"}, 1, r"0 samples .*\(none\).* rejected 1"),
        ({}, 3, "no prediction to score"),
    ],
)
def test_predictions_have_to_cover_the_manifest(
    tmp_path: Path, predictions: dict[str, str], rejects: int, message: str
) -> None:
    path = texts_file(tmp_path / "p.jsonl", predictions)
    with pytest.raises(MetricError, match=message):
        run_evaluate(path, rejects=rejects)


def test_predictions_are_one_json_object_a_line(tmp_path: Path) -> None:
    texts = {"q1": "two\nlines", "q2": "a line\u2028separator", "q3": "\x85"}
    assert read_texts(texts_file(tmp_path / "p.jsonl", texts)) == texts
    good = '{"id": "q1", "prediction": "red"}\n'
    for bad, message in [
        ("{", "line 2: not"),
        ("[]", "line 2: not"),
        ('{"id": "q2"}', "line 2: not"),
        (good, "line 2: a second text for q1"),
    ]:
        (tmp_path / "bad.jsonl").write_text(good + bad)
        with pytest.raises(MetricError, match=message):
            read_texts(tmp_path / "bad.jsonl")


@needs_java
def test_scores_of_samples_are_written_and_read(tmp_path: Path) -> None:
    samples = [
        Sample(key, f"{key}.jpg", "Say:", texts, "", "what is", "other")
        for key, texts in REFERENCES.items()
    ]
    metrics = ["cider", "bleu_1", "bleu_4"]
    scores = measure(REFERENCES, PREDICTIONS, metrics)
    write_sample_scores(tmp_path / "samples.parquet", samples, scores)
    read = read_sample_scores(tmp_path / "samples.parquet", metrics)
    assert read.ids.to_pylist() == list(REFERENCES)
    types = {name: kinds.to_pylist() for name, kinds in read.types.items()}
    assert types == {"question_type": ["what is"] * 5, "answer_type": ["other"] * 5}
    for name in metrics:
        assert np.array_equal(read.scores[name], scores[name].samples)
        assert total(name, read.of(name)) == pytest.approx(scores[name].value)
    with pytest.raises(
        TableError, match=r"has no scores of samples \(.*meteor.*\): score the run again"
    ):
        read_sample_scores(tmp_path / "samples.parquet", ["meteor"])


def test_predictions_can_be_read(tmp_path: Path) -> None:
    texts = {"q1": "red", "q3": "<b>no\n"}
    found = run_evaluate(texts_file(tmp_path / "t.jsonl", texts))
    assert found.scores["vqa_accuracy"] == Score(50.0, found.scores["vqa_accuracy"].samples)
    write_predictions(tmp_path / "p.jsonl", found.samples, found.texts, found.scores)
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert rows[0] == {
        **{"id": "q1", "media": "q1.jpg", "prompt": "q1?", "prediction": "red"},
        **{"references": ["red"], "score": 100.0},
    }
    assert (rows[1]["prediction"], rows[1]["score"]) == ("<b>no\n", 0.0)
    several = run_evaluate(
        texts_file(tmp_path / "t.jsonl", texts), ["vqa_accuracy", "choice_accuracy"]
    )
    write_predictions(tmp_path / "p.jsonl", several.samples, several.texts, several.scores)
    row = json.loads((tmp_path / "p.jsonl").read_text().splitlines()[0])
    assert row["scores"] == {"vqa_accuracy": 100.0, "choice_accuracy": 100.0}
