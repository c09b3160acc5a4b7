"""Annotations that are not as they should be are named."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from depalm.datasets.annotations import read_csv, read_json
from depalm.datasets.subsets import ManifestError
from depalm.errors import AnnotationError
from tests.support.annotations import (
    TEN,
    Writer,
    answers,
    aokvqa,
    audiocaps,
    coco_2017,
    coco_karpathy,
    karpathy_image,
    karpathy_question,
    manifest,
    msrvtt,
    okvqa,
    put,
    read,
    textcaps,
    textvqa,
    touch,
    vqav2,
)

FILES: dict[str, tuple[Writer, str]] = {
    "aokvqa": (aokvqa, "aokvqa_v1p0_train.json"),
    "audiocaps": (audiocaps, "train.csv"),
    "coco_2017": (coco_2017, "annotations/captions_train2017.json"),
    "coco_karpathy": (coco_karpathy, "dataset_coco.json"),
    "msrvtt": (msrvtt, "train_val_videodatainfo.json"),
    "okvqa": (okvqa, "mscoco_train2014_annotations.json"),
    "textcaps": (textcaps, "TextCaps_0.1_train.json"),
    "textvqa": (textvqa, "TextVQA_0.5.1_train.json"),
    "vqav2": (vqav2, "v2_OpenEnded_mscoco_train2014_questions.json"),
}


def key_paths(content: Any) -> list[tuple[Any, ...]]:
    """The place of every dictionary key and list in a JSON value."""
    if isinstance(content, dict):
        return [(key, *rest) for key in content for rest in [(), *key_paths(content[key])]]
    if isinstance(content, list):
        return [(i, *rest) for i, item in enumerate(content) for rest in key_paths(item)]
    return []


def spoilt(content: Any, place: Sequence[Any]) -> Any:
    copy = json.loads(json.dumps(content))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = {}  # a value of the wrong type
    return copy


NEEDED = {
    "aokvqa": {"question_id", "image_id", "question", "direct_answers"},
    "coco_2017": {"images", "annotations", "id", "image_id", "caption"},
    "coco_karpathy": {"images", "filename", "split", "sentences", "raw"},
    "msrvtt": {"videos", "video_id", "sentences", "caption"},
    "okvqa": {"annotations", "question_id", "answers", "raw_answer"},
    "textcaps": {"data", "image_id", "caption_str"},
    "textvqa": {"data", "question_id", "image_id", "question", "answers"},
    "vqav2": {"questions", "question_id", "image_id", "question"},
}


@pytest.mark.parametrize("reader", NEEDED)
def test_a_field_of_the_wrong_type_is_named_with_its_file_and_no_other_field_is_needed(
    tmp_path: Path, reader: str
) -> None:
    write, name = FILES[reader]
    write(tmp_path)
    path = tmp_path / name
    content = json.loads(path.read_text())
    needed = set()
    for place in key_paths(content):
        if reader == "coco_2017" and place[0] == "annotations" and place[-1] == "id":
            continue  # the id of a caption, not of an image
        put(path, spoilt(content, place))
        with suppress(AnnotationError):
            read(reader, tmp_path)
            continue
        with pytest.raises(AnnotationError, match=re.escape(str(path))):
            read(reader, tmp_path)
        needed.add(place[-1])
    assert needed == NEEDED[reader]


@pytest.mark.parametrize("reader", FILES)
def test_a_missing_or_broken_file_is_named(tmp_path: Path, reader: str) -> None:
    write, name = FILES[reader]
    write(tmp_path)
    path = tmp_path / name
    path.write_text("{[\n0\n")
    with pytest.raises(AnnotationError, match=path.name):
        read(reader, tmp_path)
    path.unlink()
    with pytest.raises(AnnotationError, match=path.name):
        read(reader, tmp_path)


@pytest.mark.parametrize("reader", sorted(NEEDED.keys() - {"okvqa"}))
def test_a_second_row_of_an_id_is_refused_or_joined(tmp_path: Path, reader: str) -> None:
    write, name = FILES[reader]
    write(tmp_path)
    path = tmp_path / name
    content = json.loads(path.read_text())
    rows = (
        content
        if isinstance(content, list)
        else next(
            content[key] for key in ("images", "videos", "questions", "data") if key in content
        )
    )
    rows.append(rows[0])
    put(path, content)
    if reader == "textcaps":  # rows are captions
        assert len(read(reader, tmp_path)) == 2
        return
    with pytest.raises((AnnotationError, ManifestError)):
        manifest(reader, tmp_path, "train", tolerated=1.0)


@pytest.mark.parametrize(
    ("reader", "name", "content", "message"),
    [
        (
            "okvqa",
            "mscoco_train2014_annotations.json",
            {"annotations": [{"question_id": 10, "answers": answers(TEN)}] * 2},
            "row 1 is a second one of question 10",
        ),
        (
            "coco_karpathy",
            "dataset_coco.json",
            {"images": [{**karpathy_image(1, "train", "x"), "filename": "cat.jpg"}]},
            r"image 0: 'cat\.jpg' is not the name of a COCO image",
        ),
        (
            "coco_2017",
            "annotations/captions_train2017.json",
            {"images": [{"id": 1}], "annotations": [{"image_id": 2, "caption": "x"}]},
            "annotation 0 is not",
        ),
        (
            "vqav2_karpathy",
            "karpathy_train.json",
            [karpathy_question(3, answers={"blue": 10})],
            "row 0: answers is no list",
        ),
        (
            "vqav2_karpathy",
            "karpathy_train.json",
            [karpathy_question(3, answers=answers(TEN), sent=None)],
            "row 0 is not",
        ),
        (
            "msrvtt",
            "msrvtt_caption_train7k.json",
            [{"video": "video0.mp4", "caption": [1]}],
            "row 0 is not",
        ),
    ],
)
def test_what_cannot_be_is_named(
    tmp_path: Path, reader: str, name: str, content: Any, message: str
) -> None:
    okvqa(tmp_path)
    put(tmp_path / name, content)
    with pytest.raises(AnnotationError, match=message):
        read(reader, tmp_path)


@pytest.mark.parametrize(
    "row",
    [
        (1, "-abcdefghi0", 30, "A second row of this id"),
        (5, "", 30, "No video"),
        (5, "zabcdefghi2", 30, "One field", "too many"),
    ],
)
def test_malformed_audiocaps_rows_are_named(tmp_path: Path, row: Sequence[Any]) -> None:
    audiocaps(tmp_path, [(1, "-abcdefghi0", 30, "Rain"), row])
    with pytest.raises(AnnotationError, match=r"train\.csv: row 1 is not|line 3: 5 fields"):
        read("audiocaps", tmp_path)


def test_audiocaps_of_another_header_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("id,caption\n1,Rain\n")
    with pytest.raises(AnnotationError, match="row 0 is not audiocap_id, caption, start_time"):
        read("audiocaps", tmp_path)


def test_an_empty_caption_is_left_out_and_a_clip_without_another_rejected(tmp_path: Path) -> None:
    rows = [(1, "-abcdefghi0", 30, "Rain"), (2, "-abcdefghi0", 30, ""), (3, "_abcdefghi1", 0, " ")]
    audiocaps(tmp_path, rows)
    touch(tmp_path, "audio/1.wav", "audio/3.wav")
    samples, rejects = manifest("audiocaps", tmp_path, "train", tolerated=0.5)
    assert [sample.references for sample in samples] == [["Rain"]]
    assert rejects == {"_abcdefghi1_0": "no reference but blank ones"}


def test_msrvtt_has_no_val(tmp_path: Path) -> None:
    msrvtt(tmp_path)
    with pytest.raises(AnnotationError, match=r"has the splits \['test', 'train'\], no 'val'"):
        read("msrvtt", tmp_path, "val")
    with pytest.raises(AnnotationError, match=r"neither msrvtt_caption_test\.json nor test_video"):
        read("msrvtt", tmp_path, "test")


def test_a_key_or_a_column_given_twice_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"id": 1, "id": 2}]')
    with pytest.raises(AnnotationError, match=r"a\.json cannot be read: the key 'id' stands twice"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.csv").write_text("id,media,id\n1,2,3\n")
    with pytest.raises(AnnotationError, match=r"a\.csv, line 1: the header has id twice"):
        list(read_csv(tmp_path / "a.csv"))
