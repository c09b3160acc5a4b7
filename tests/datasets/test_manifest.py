"""Manifests: the readers, what they reject, and the subsets drawn from them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from depalm.datasets.annotations import Annotation
from depalm.datasets.manifest import (
    Sample,
    build_manifest,
    choose_template,
    read_manifest,
    types_of,
    unique_media,
    write_manifest,
)
from depalm.datasets.subsets import ManifestError, draw_subset, parse_fraction
from depalm.errors import AnnotationError, DamagedFile
from depalm.rejects import Reject, RejectError, read_rejects, write_rejects
from depalm.specs.dataset import Templates
from tests.support.samples import unkeyed
from tests.support.specs import rows_spec

TEMPLATES = {"texts": ["{question}\n\nAnswer:\n", "Q: {question} A:", "{question}"]}
DATASET = {"reader": "easy_vqa", "splits": ["train", "test"], "templates": TEMPLATES}
GENERIC = {**DATASET, "reader": "generic"}
SUBSETS = {
    "100pct": 200,
    "10pct": 20,
    "1pct": 2,
    "0.5pct": 1,
    "0.1pct": 1,
    "33.3pct": 67,
}


def easy_vqa(root: Path, rows: Sequence[object], images: int = 3) -> Path:
    """The official layout: questions.json and images/{number}.png."""
    (root / "train/images").mkdir(parents=True)
    (root / "train/questions.json").write_text(json.dumps(rows))
    for number in range(images):
        (root / f"train/images/{number}.png").write_bytes(b"png")
    return root


def generic(root: Path, name: str, text: str) -> Path:
    (root / name).write_text(text, encoding="utf-8")
    for media in ("a.png", "b.png"):
        (root / media).write_bytes(b"png")
    return root


def test_easy_vqa_rows_become_samples(tmp_path: Path) -> None:
    rows = [["what shape?", "circle", 2], ["is it {red}?", "no", 0], ["what shape?", "square", 0]]
    samples, rejects, _ = build_manifest(easy_vqa(tmp_path, rows), rows_spec(DATASET), "train")
    assert rejects == []
    assert unkeyed(samples[:2]) == [
        Sample("train-0", "train/images/2.png", "what shape?\n\nAnswer:\n", ["circle"]),
        Sample("train-1", "train/images/0.png", "is it {red}?\n\nAnswer:\n", ["no"]),
    ]
    assert unique_media(samples) == ["train/images/2.png", "train/images/0.png"]


def test_bad_rows_are_rejected_with_a_reason_and_counted(tmp_path: Path) -> None:
    rows = [["q?", "a", 0], [" ", "a", 0], ["q?", "", 1], ["q?", "a", 9]]
    root = easy_vqa(tmp_path, rows)
    samples, rejects, _ = build_manifest(
        root, rows_spec(DATASET), "train", max_reject_fraction=0.75
    )
    assert [sample.id for sample in samples] == ["train-0"]
    assert [(reject.id, reject.reason) for reject in rejects] == [
        ("train-1", "blank question"),
        ("train-2", "no reference but blank ones"),
        ("train-3", "no such media file"),
    ]
    with pytest.raises(RejectError, match=r"3 of 4 rejected .*1 x blank question.*images/9\.png"):
        build_manifest(root, rows_spec(DATASET), "train", max_reject_fraction=0.74)


def test_captions_need_no_question(tmp_path: Path) -> None:
    line = {"media": "a.png", "references": ["a cat", " ", "the cat"]}
    root = generic(tmp_path, "manifest.train.jsonl", json.dumps(line) + "\n\n")
    samples, *_ = build_manifest(
        root, rows_spec({**GENERIC, "templates": {"texts": [""]}}), "train"
    )
    assert unkeyed(samples) == [Sample("train-0", "a.png", "", ["a cat", "the cat"])]
    with pytest.raises(RejectError, match="blank question"):
        build_manifest(root, rows_spec(GENERIC), "train")


def test_jsonl_and_csv_of_a_user_give_the_same_samples(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "x", "media": "a.png", "question": "où, “quoi”?", "references": ["un, deux", "b"]},
        {"id": "y", "media": "b.png", "question": "q?", "references": ["c"]},
    ]
    jsonl, table = tmp_path / "jsonl", tmp_path / "csv"
    jsonl.mkdir()
    table.mkdir()
    generic(jsonl, "manifest.test.jsonl", "\n".join(json.dumps(row) for row in rows))
    text = (
        "\ufeffid,media,question,references\r\n"
        'x,a.png,"où, “quoi”?","[""un, deux"", ""b""]"\r\n'
        'y,b.png,q?,"[""c""]"\r\n'
    )
    generic(table, "manifest.test.csv", text)
    samples, *_ = build_manifest(jsonl, rows_spec(GENERIC), "test")
    assert samples == build_manifest(table, rows_spec(GENERIC), "test")[0]
    assert unkeyed(samples)[0] == Sample(
        "x", "a.png", "où, “quoi”?\n\nAnswer:\n", ["un, deux", "b"]
    )


def test_types_of_question_and_answer() -> None:
    """Those of the dataset, or else by VQA's own rule; captions have none."""

    def of(question: str, *references: str, **given: str) -> tuple[str, str]:
        return types_of(Annotation("x", "a.png", question, list(references), **given))

    assert of("What color is it?", "red", "2") == ("what color", "other")
    assert of("Is it?", "yes ", "Yes", "no") == ("is it", "yes/no")
    assert of("How many?", "3", "three", "3") == ("how many", "number")
    assert of("Where?", "x", question_type="where", answer_type="place") == ("where", "place")
    assert of("", "a cat") == ("", "")


def test_a_manifest_of_an_earlier_version_has_no_types(tmp_path: Path) -> None:
    sample = Sample("x", "a.png", "q", ["r"], "0" * 64, "what is", "other")
    write_manifest(tmp_path / "m.parquet", [sample])
    assert read_manifest(tmp_path / "m.parquet") == [sample]
    table = pq.read_table(tmp_path / "m.parquet").drop_columns(["question_type", "answer_type"])
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "m.parquet")
    untyped = replace(sample, question_type="", answer_type="")
    assert read_manifest(tmp_path / "m.parquet") == [untyped]


def test_a_prompt_of_its_own_takes_the_place_of_the_template(tmp_path: Path) -> None:
    text = "media,prompt,reference\na.png,Describe {question}: ,[music]\n"
    samples, *_ = build_manifest(
        generic(tmp_path, "manifest.train.csv", text), rows_spec(GENERIC), "train"
    )
    assert unkeyed(samples) == [Sample("train-0", "a.png", "Describe {question}: ", ["[music]"])]


def test_the_template_is_the_first_that_at_an_index_or_drawn_for_each_sample() -> None:
    texts = TEMPLATES["texts"]
    ids = [f"train-{i}" for i in range(300)]
    assert choose_template(Templates.model_validate(TEMPLATES), "x") == texts[0]
    assert choose_template(Templates.model_validate({**TEMPLATES, "selection": 1}), "x") == texts[1]
    drawn = {
        seed: [
            choose_template(
                Templates.model_validate({**TEMPLATES, "selection": "random", "seed": seed}), i
            )
            for i in ids
        ]
        for seed in (0, 1)
    }
    assert drawn[0][:4] == [texts[i] for i in (1, 1, 0, 1)]  # the same on every machine
    assert drawn[0] != drawn[1]
    for choice in drawn.values():
        assert all(70 < choice.count(text) < 130 for text in texts)


def test_the_drawn_template_stands_in_the_prompt(tmp_path: Path) -> None:
    root = easy_vqa(tmp_path, [["what?", "a", 0]] * 8)
    templates = {**TEMPLATES, "selection": "random", "seed": 3}
    samples, *_ = build_manifest(root, rows_spec({**DATASET, "templates": templates}), "train")
    expected = [
        choose_template(Templates.model_validate(templates), sample.id) for sample in samples
    ]
    assert [s.prompt for s in samples] == [t.replace("{question}", "what?") for t in expected]
    assert len(set(expected)) > 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("manifest.train.jsonl", '{"media": "a.png"', r"line 1: not JSON"),
        ("manifest.train.jsonl", '["a.png"]', r"line 1: not a JSON object"),
        (
            "manifest.train.jsonl",
            '{"media": "a.png"}',
            r"row 0: media and reference\(s\) are needed",
        ),
        ("manifest.train.jsonl", '{"media": 1, "reference": "a"}', r"row 0: media and reference"),
        ("manifest.train.jsonl", '{"reference": "a"}', r"row 0: media and reference"),
        ("manifest.train.jsonl", '{"media": "a.png", "references": "a"}', r"list of texts"),
        (
            "manifest.train.jsonl",
            '{"image": "a.png", "reference": "a"}',
            r"has \['image'\]; fields",
        ),
        ("manifest.train.csv", "media,references\na.png,cat\n", r"must be a JSON list, not 'cat'"),
        (
            "manifest.train.csv",
            "media,reference\na.png,cat,dog\n",
            r"line 2: 3 fields, but",
        ),
        ("manifest.train.csv", "media,reference\na.png,a\n\nb.png\n", r"line 4: 1 fields, but"),
        ("manifest.train.csv", 'media,reference\na.png,"a\nb.png,b\n', r"line 2: not CSV: unexp"),
        ("manifest.train.csv", 'media,reference\na.png,"a" b\n', r"line 2: not CSV"),
        (
            "manifest.train.jsonl",
            '{"media": "a.png", "reference": "a \\ud83d cat"}',
            r"'a \\ud83d cat' of the sample 'train-0' is not Unicode: it has half of",
        ),
        (
            "manifest.train.jsonl",
            '{"media": "a.png", "reference": "a", "question": "q", "prompt": "p"}',
            r"only one is allowed",
        ),
        (
            "manifest.train.jsonl",
            '{"id": "1", "media": "a.png", "reference": "a"}\n' * 2,
            r"id '1' occurs twice",
        ),
        ("manifest.train.jsonl", '{"id": "a\\nb", "media": "a.png", "reference": "a"}', r"breaks"),
        ("manifest.train.jsonl", "", r"the split train has no samples"),
        ("other.jsonl", "", r"neither manifest\.train\.jsonl nor manifest\.train\.csv"),
    ],
)
def test_malformed_annotations_are_named(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    root = generic(tmp_path, name, text)
    with pytest.raises((AnnotationError, ManifestError), match=message):
        build_manifest(root, rows_spec(GENERIC), "train")


def test_malformed_easy_vqa_is_named(tmp_path: Path) -> None:
    root = easy_vqa(tmp_path, [["q?", "a", 0], ["q?", "a"]])
    with pytest.raises(AnnotationError, match=r"questions\.json: row 1 is not \[question, answer"):
        build_manifest(root, rows_spec(DATASET), "train")
    with pytest.raises(AnnotationError, match=r"test/questions\.json cannot be read"):
        build_manifest(root, rows_spec(DATASET), "test")
    with pytest.raises(ManifestError, match=r"no split 'val'; there are: \['train', 'test'\]"):
        build_manifest(root, rows_spec(DATASET), "val")


def test_max_rows_keeps_a_spread_nested_part_in_order(tmp_path: Path) -> None:
    root = easy_vqa(tmp_path, [["q?", "a", i % 3] for i in range(100)])
    numbers = {
        max_rows: [
            int(sample.id.split("-")[1])
            for sample in build_manifest(root, rows_spec(DATASET), "train", max_rows)[0]
        ]
        for max_rows in (None, 200, 20, 0.05, 0.001)
    }
    assert [len(kept) for kept in numbers.values()] == [100, 100, 20, 5, 1]
    assert all(kept == sorted(kept) for kept in numbers.values())
    assert set(numbers[0.05]) < set(numbers[20])
    assert max(numbers[20]) > 50


def test_a_manifest_is_read_back_and_its_bytes_are_its_content(tmp_path: Path) -> None:
    samples = [Sample("é", "a.png", "q\n", ["a", "b"]), Sample("2", "a.png", "", [])]
    write_manifest(tmp_path / "1.parquet", samples)
    write_manifest(tmp_path / "2.parquet", samples)
    assert read_manifest(tmp_path / "1.parquet") == samples
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()
    (tmp_path / "3.parquet").write_bytes(b"no parquet")
    for path, error, told in (
        (tmp_path / "3.parquet", DamagedFile, "is damaged"),
        (tmp_path / "absent.parquet", ManifestError, "is not a manifest"),
    ):
        with pytest.raises(error, match=told):
            read_manifest(path)


@pytest.mark.parametrize("rejects", [[], [Reject("1", "a.png", "empty"), Reject("2", "b", "x")]])
def test_rejects_are_read_back(tmp_path: Path, rejects: list[Reject]) -> None:
    write_rejects(tmp_path / "rejects.parquet", rejects)
    assert read_rejects(tmp_path / "rejects.parquet") == rejects


@pytest.mark.parametrize(("fraction", "count"), SUBSETS.items())
def test_a_subset_has_its_size_and_depends_on_the_seed_alone(fraction: str, count: int) -> None:
    ids = [f"train-{i}" for i in range(200)]
    subset = draw_subset(ids, fraction, seed=1)
    assert len(subset) == count == len(set(subset))
    assert subset == [name for name in ids if name in subset]
    assert set(draw_subset(ids[::-1], fraction, seed=1)) == set(subset)
    assert (draw_subset(ids, fraction, seed=2) == subset) == (count == len(ids))
    assert set(subset) <= set(draw_subset(ids, "100pct", seed=1))


def test_a_subset_is_the_same_everywhere_and_nested() -> None:
    ids = [f"train-{i}" for i in range(1000)]
    assert draw_subset(ids, "0.3pct", seed=0) == ["train-529", "train-836", "train-857"]
    assert set(draw_subset(ids, "1pct", seed=0)) < set(draw_subset(ids, "10pct", seed=0))


@pytest.mark.parametrize(
    "text", ["10", "10%", "0pct", "101pct", "-1pct", "pct", "1e1pct", "10 pct"]
)
def test_what_is_no_fraction_is_refused(text: str) -> None:
    with pytest.raises(ManifestError, match="is not a fraction: write a percentage"):
        parse_fraction(text)
