"""The dataset readers: on small files in the official schemas, and on real ones where they are."""

import csv
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from depalm.datasets.annotations import Annotation, find_media, read_csv, read_json
from depalm.datasets.manifest import Sample, build_manifest, unique_media
from depalm.datasets.readers import READERS
from depalm.datasets.subsets import ManifestError
from depalm.errors import AnnotationError
from depalm.evaluation.vqa_accuracy import answer_accuracy
from depalm.rejects import RejectError
from depalm.sources.convert import convert
from tests.support.samples import unkeyed
from tests.support.specs import rows_spec

Writer = Callable[[Path], None]
CAPTION = {"texts": [""]}
TEN = ["blue"] * 6 + ["navy"] * 3 + ["red"]


def put(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"media")


def read(reader: str, root: Path, split: str = "train") -> list[Annotation]:
    return list(READERS[reader].read(root, split))


def manifest(
    reader: str, root: Path, split: str, tolerated: float = 0.0, templates: Any = CAPTION
) -> tuple[list[Sample], dict[str, str]]:
    dataset = {"reader": reader, "splits": [split], "templates": templates}
    samples, rejects, _ = build_manifest(root, rows_spec(dataset), split, None, tolerated)
    return unkeyed(samples), {reject.id: reject.reason for reject in rejects}


def answers(texts: Sequence[str]) -> list[dict[str, Any]]:
    """As in the annotations of VQA."""
    return [
        {"answer": text, "raw_answer": text, "answer_confidence": "yes", "answer_id": number}
        for number, text in enumerate(texts, start=1)
    ]


# ---------------------------------------------------------------- COCO


def karpathy_image(
    image: int, part: str, *captions: str, folder: str = "val2014"
) -> dict[str, Any]:
    return {
        "filepath": folder,
        "filename": f"COCO_{folder}_{image:012}.jpg",
        "imgid": image,
        "cocoid": image,
        "split": part,
        "sentids": list(range(len(captions))),
        "sentences": [{"tokens": text.split(), "raw": text, "imgid": image} for text in captions],
    }


def coco_karpathy(root: Path) -> None:
    images = [
        karpathy_image(1, "train", "A cat.", "One cat", folder="train2014"),
        karpathy_image(2, "restval", "A dog."),
        karpathy_image(3, "val", "A cow\nin a field.\n"),
        karpathy_image(4, "test", "A hen.", " "),
    ]
    put(root / "dataset_coco.json", {"images": images, "dataset": "coco"})


def test_karpathys_coco_has_train_without_restval(tmp_path: Path) -> None:
    coco_karpathy(tmp_path)
    touch(tmp_path, "train2014/COCO_train2014_000000000001.jpg", "val2017/000000000003.jpg")
    assert manifest("coco_karpathy", tmp_path, "train") == (
        [Sample("1", "train2014/COCO_train2014_000000000001.jpg", "", ["A cat.", "One cat"])],
        {},
    )
    # an image may also lie where COCO 2017 has it; line breaks in captions become spaces
    [sample] = manifest("coco_karpathy", tmp_path, "val")[0]
    assert sample == Sample("3", "val2017/000000000003.jpg", "", ["A cow in a field."])
    with pytest.raises(RejectError, match=r"1 x no such media file\): 000000000004\.jpg"):
        manifest("coco_karpathy", tmp_path, "test")


def coco_2017(root: Path) -> None:
    images = [{"id": 7, "file_name": "000000000007.jpg"}, {"id": 8, "file_name": "8.jpg"}]
    rows = [(7, "A cat."), (8, "A\u2028dog."), (7, " One cat \n")]
    captions = [{"id": i, "image_id": k, "caption": text} for i, (k, text) in enumerate(rows)]
    put(
        root / "annotations/captions_train2017.json",
        {"info": {}, "images": images, "annotations": captions},
    )


def test_official_coco_captions_are_grouped_by_image(tmp_path: Path) -> None:
    coco_2017(tmp_path)
    touch(tmp_path, "train2017/000000000007.jpg")
    assert read("coco_2017", tmp_path) == [
        Annotation("7", "train2017/000000000007.jpg", "", ["A cat.", "One cat"]),
        Annotation("8", "000000000008.jpg", "", ["A dog."]),
    ]
    content = json.loads((tmp_path / "annotations/captions_train2017.json").read_text())
    put(tmp_path / "annotations/captions_val2014.json", {**content, "annotations": []})
    assert [row.references for row in read("coco_2014", tmp_path, "val")] == [[], []]
    with pytest.raises(RejectError, match="2 x no reference"):
        manifest("coco_2014", tmp_path, "val")


# ---------------------------------------------------------------- VQAv2 and OKVQA


def vqa_pair(root: Path, prefix: str, part: str, images: Sequence[int]) -> None:
    """One question about each image: its id is ten times that of the image."""
    questions = [
        {"image_id": image, "question": f"What is {image}?", "question_id": image * 10}
        for image in images
    ]
    annotations = [
        {
            "question_id": image * 10,
            "image_id": image,
            "question_type": "what is the",
            "answer_type": "colour",
            "multiple_choice_answer": "blue",
            "answers": answers(TEN),
        }
        for image in images
    ]
    header = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": f"{part}2014"}
    put(
        root / f"{prefix}OpenEnded_mscoco_{part}2014_questions.json",
        {**header, "task_type": "Open-Ended", "questions": questions},
    )
    put(
        root / f"{prefix}mscoco_{part}2014_annotations.json",
        {**header, "annotations": annotations},
    )


def vqav2(root: Path) -> None:
    vqa_pair(root, "v2_", "train", [1])
    vqa_pair(root, "v2_", "val", [2, 3, 4, 5])


def okvqa(root: Path) -> None:
    vqa_pair(root, "", "train", [1])


@pytest.mark.parametrize(("reader", "write"), [("vqav2", vqav2), ("okvqa", okvqa)])
def test_an_official_pair_gives_ten_answers_to_a_question(
    tmp_path: Path, reader: str, write: Writer
) -> None:
    write(tmp_path)
    touch(tmp_path, "train2014/COCO_train2014_000000000001.jpg")
    [sample], _ = manifest(reader, tmp_path, "train", templates={"texts": ["{question} A:"]})
    media = "train2014/COCO_train2014_000000000001.jpg"
    assert sample == Sample("10", media, "What is 1? A:", TEN)


def test_okvqa_takes_the_answers_as_people_wrote_them_or_stemmed(tmp_path: Path) -> None:
    okvqa(tmp_path)
    touch(tmp_path, "train2014/COCO_train2014_000000000001.jpg")
    pairs = [("race", "racing"), ("race", "racing"), ("pony tail", "pony tails")]
    given = [{"answer": stem, "raw_answer": raw} for stem, raw in pairs]
    annotations = [{"question_id": 10, "answers": given}]
    put(tmp_path / "mscoco_train2014_annotations.json", {"annotations": annotations})
    assert read("okvqa", tmp_path)[0].references == ["racing", "racing", "pony tails"]
    assert read("okvqa_stemmed", tmp_path)[0].references == ["race", "race", "pony tail"]


def test_a_blank_answer_counts_among_the_ten(tmp_path: Path) -> None:
    okvqa(tmp_path)
    touch(tmp_path, "train2014/COCO_train2014_000000000001.jpg")
    given = ["blue"] * 2 + ["navy"] * 6 + [""] * 2  # five people, each twice
    annotations = [{"question_id": 10, "answers": answers(given)}]
    put(tmp_path / "mscoco_train2014_annotations.json", {"annotations": annotations})
    [sample], _ = manifest("okvqa", tmp_path, "train")
    assert sample.references == given
    assert answer_accuracy(sample.references, "Blue.") == pytest.approx(0.6)


def test_a_question_without_annotation_is_rejected(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vqav2(tmp_path)
    touch(tmp_path, *(f"val2017/{image:012}.jpg" for image in (2, 3, 4, 5)))
    path = tmp_path / "v2_mscoco_val2014_annotations.json"
    rows = json.loads(path.read_text())["annotations"]
    put(path, {"annotations": [*rows[1:], {"question_id": 99, "answers": answers(["x"])}]})
    samples, rejects = manifest("vqav2", tmp_path, "val", tolerated=0.25)
    assert [sample.id for sample in samples] == ["30", "40", "50"]
    assert rejects == {"20": "no reference"}
    assert "questions.json lacks the questions of 1 annotations" in caplog.text


def karpathy_question(image: int, **more: Any) -> dict[str, Any]:
    return {
        "answer_type": "other",
        "img_id": f"COCO_val2014_{image:012}",
        "label": {"blue": 1, "navy": 0.9},
        "question_id": image * 10,
        "question_type": "what is",
        "sent": f"What is {image}?",
        **more,
    }


def test_karpathys_split_of_vqav2_follows_the_images(tmp_path: Path) -> None:
    vqav2(tmp_path)
    coco_karpathy(tmp_path)
    ids = {
        split: [row.id for row in read("vqav2_karpathy", tmp_path, split)]
        for split in ("train", "val", "test")
    }
    assert ids == {"train": ["10", "20", "50"], "val": ["30"], "test": ["40"]}


def test_karpathys_split_files_of_vqav2_give_the_same_samples(tmp_path: Path) -> None:
    vqav2(tmp_path)
    coco_karpathy(tmp_path)
    touch(tmp_path, "val2014/COCO_val2014_000000000003.jpg")
    derived = read("vqav2_karpathy", tmp_path, "val")
    assert derived[0].references == TEN
    put(tmp_path / "karpathy_val.json", [karpathy_question(3)])
    assert read("vqav2_karpathy", tmp_path, "val") == derived
    assert (derived[0].question_type, derived[0].answer_type) == ("what is the", "colour")
    for path in tmp_path.glob("v2_*"):
        path.unlink()
    put(tmp_path / "karpathy_val.json", [karpathy_question(3, answers=answers(TEN))])
    bare = [replace(row, question_type="", answer_type="") for row in derived]
    assert read("vqav2_karpathy", tmp_path, "val") == bare
    # soft labels alone do not say what ten people answered
    put(tmp_path / "karpathy_val.json", [karpathy_question(3)])
    with pytest.raises(AnnotationError, match=r"v2_mscoco_train2014_annotations\.json"):
        read("vqav2_karpathy", tmp_path, "val")


# ---------------------------------------------------------------- A-OKVQA, TextVQA, TextCaps


def aokvqa(root: Path) -> None:
    row = {
        "split": "train",
        "image_id": 299207,
        "question_id": "22MexNkBPpdZGX6sxbxVBH",
        "question": "What is the man by the bags awaiting?",
        "choices": ["skateboarder", "train", "delivery", "cab"],
        "correct_choice_idx": 3,
        "direct_answers": ["ride", "ride", "bus", "taxi"],
        "difficult_direct_answer": True,
        "rationales": ["A train would not be on the street."],
    }
    put(root / "aokvqa_v1p0_train.json", [row])


def test_aokvqas_direct_answers_are_references(tmp_path: Path) -> None:
    aokvqa(tmp_path)
    touch(tmp_path, "train2017/000000299207.jpg")
    assert read("aokvqa", tmp_path) == [
        Annotation(
            "22MexNkBPpdZGX6sxbxVBH",
            "train2017/000000299207.jpg",
            "What is the man by the bags awaiting?",
            ["ride", "ride", "bus", "taxi"],
        )
    ]


def test_hard_direct_answers_are_trained_on_but_not_scored(tmp_path: Path) -> None:
    aokvqa(tmp_path)
    touch(tmp_path, "train2017/000000299207.jpg", "val2017/000000299207.jpg")
    [row] = json.loads((tmp_path / "aokvqa_v1p0_train.json").read_text())
    easy = {**row, "question_id": "easy", "difficult_direct_answer": False}
    put(tmp_path / "aokvqa_v1p0_val.json", [row, easy])
    assert len(read("aokvqa", tmp_path, "train")) == 1
    assert [annotation.id for annotation in read("aokvqa", tmp_path, "val")] == ["easy"]


def test_aokvqas_choices_stand_behind_the_question(tmp_path: Path) -> None:
    aokvqa(tmp_path)
    touch(tmp_path, "train2017/000000299207.jpg")
    [annotation] = read("aokvqa_choices", tmp_path)
    assert annotation.question == (
        "What is the man by the bags awaiting?\nChoices: skateboarder, train, delivery, cab"
    )
    assert annotation.references == ["cab"]
    [row] = json.loads((tmp_path / "aokvqa_v1p0_train.json").read_text())
    put(tmp_path / "aokvqa_v1p0_train.json", [{**row, "correct_choice_idx": 4}])
    with pytest.raises(AnnotationError, match=r"row 0 is not .*correct_choice_idx"):
        read("aokvqa_choices", tmp_path)


def textvqa(root: Path) -> None:
    row = {
        "question": "what is the brand?",
        "image_id": "0a0bc91825468c45",
        "image_classes": ["Mobile phone"],
        "flickr_original_url": "",
        "flickr_300k_url": "",
        "image_width": 1024,
        "image_height": 768,
        "answers": TEN,
        "question_tokens": ["what", "is", "the", "brand"],
        "question_id": 34602,
        "set_name": "train",
    }
    header = {"dataset_type": "train", "dataset_name": "textvqa", "dataset_version": "0.5.1"}
    put(root / "TextVQA_0.5.1_train.json", {**header, "data": [row]})


def test_textvqa(tmp_path: Path) -> None:
    textvqa(tmp_path)
    media = "train_images/0a0bc91825468c45.jpg"
    assert read("textvqa", tmp_path) == [Annotation("34602", media, "what is the brand?", TEN)]


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def hub_row(question: Any, name: str, split: str, **more: Any) -> dict[str, Any]:
    return {
        "image_id": name,
        "question_id": question,
        "question": "what is the brand?",
        "question_tokens": ["what", "is", "the", "brand"],
        "image": {"bytes": name.encode(), "path": f"{name}.jpg"},
        "answers": TEN,
        "image_classes": ["Mobile phone"],
        "set_name": split,
        **more,
    }


def test_textvqa_as_parquet_becomes_the_official_form(tmp_path: Path) -> None:
    download = tmp_path / "download"
    rows = [hub_row(i, "a" if i < 2 else "b", "train") for i in range(150)]
    parquet(download / "data/train-00000-of-00002.parquet", rows[:100])
    parquet(download / "data/train-00001-of-00002.parquet", rows[100:])
    parquet(download / "data/validation-00000-of-00001.parquet", [hub_row("200", "c", "val")])
    parquet(download / "data/test-00000-of-00001.parquet", [hub_row(300, "d", "test", answers=[])])
    put(download / "source.json", {"uri": "hf://datasets/x/textvqa"})
    output = tmp_path / "output"
    convert(download, output, "textvqa_parquet")

    textvqa(tmp_path / "official")
    [official] = read("textvqa", tmp_path / "official")
    samples, _ = manifest("textvqa", output, "train")
    assert [sample.id for sample in samples] == [str(i) for i in range(150)]
    assert samples[0].references == official.references
    assert unique_media(samples) == ["train_images/a.jpg", "train_images/b.jpg"]
    assert (output / "train_images/a.jpg").read_bytes() == b"a"
    assert [s.media for s in manifest("textvqa", output, "val")[0]] == ["train_images/c.jpg"]
    assert (output / "test_images/d.jpg").is_file()
    expected = json.loads((tmp_path / "official/TextVQA_0.5.1_train.json").read_text())
    written = json.loads((output / "TextVQA_0.5.1_train.json").read_text())
    assert {k: written[k] for k in written if k != "data"} == {
        k: expected[k] for k in expected if k != "data"
    }


@pytest.mark.parametrize(
    "row",
    [
        {"image_id": "a"},
        hub_row("x1", "a", "train"),
        hub_row(1, "a", "train", image=None),
        hub_row(1, "a", "train", image={"path": "a.jpg"}),
    ],
)
def test_another_parquet_is_named(tmp_path: Path, row: dict[str, Any]) -> None:
    put(tmp_path / "download/source.json", {})
    parquet(tmp_path / "download/1.parquet", [row])
    with pytest.raises(AnnotationError, match=r"1\.parquet is not TextVQA as parquet"):
        convert(tmp_path / "download", tmp_path / "output", "textvqa_parquet")
    (tmp_path / "download/1.parquet").write_bytes(b"PAR1")
    with pytest.raises(AnnotationError, match=r"1\.parquet is not TextVQA as parquet"):
        convert(tmp_path / "download", tmp_path / "output", "textvqa_parquet")
    (tmp_path / "download/1.parquet").unlink()
    with pytest.raises(AnnotationError, match="holds no parquet file"):
        convert(tmp_path / "download", tmp_path / "output", "textvqa_parquet")
    assert not (tmp_path / "output").exists()


def textcaps(root: Path) -> None:
    rows = [
        {
            "image_id": image,
            "image_path": f"train/{image}.jpg",
            "set_name": "train",
            "caption_id": number,
            "caption_str": caption,
            "reference_strs": ["all captions of the image"],
        }
        for number, (image, caption) in enumerate(
            [("a", "A sign\nsays stop."), ("b", "A book."), ("a", "Stop sign.")]
        )
    ]
    header = {"dataset_type": "train", "dataset_name": "textcaps", "dataset_version": "0.1"}
    put(root / "TextCaps_0.1_train.json", {**header, "data": rows})


def test_textcaps_rows_are_grouped_by_image(tmp_path: Path) -> None:
    textcaps(tmp_path)
    assert read("textcaps", tmp_path) == [
        Annotation("a", "train_images/a.jpg", "", ["A sign says stop.", "Stop sign."]),
        Annotation("b", "train_images/b.jpg", "", ["A book."]),
    ]


# ---------------------------------------------------------------- AudioCaps


def audiocaps(root: Path, rows: Sequence[Sequence[Any]] | None = None) -> None:
    if rows is None:
        rows = [
            (1, "-abcdefghi0", 30, "Rain, and\r\nwind"),
            (2, "-abcdefghi0", 30, "Rain falls"),
            (3, "_abcdefghi1", 0, "A dog barks"),
            (4, "zabcdefghi2", 7, "A cat"),
        ]
    root.mkdir(exist_ok=True)
    with (root / "train.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([("audiocap_id", "youtube_id", "start_time", "caption"), *rows])


def test_audiocaps_rows_are_grouped_by_clip_and_clips_found_by_either_id(tmp_path: Path) -> None:
    audiocaps(tmp_path)
    touch(tmp_path, "audio/-abcdefghi0_30.flac", "train/3.wav", "train/zabcdefghi2.wav.part")
    samples, rejects = manifest("audiocaps", tmp_path, "train", tolerated=0.4)
    assert samples == [
        Sample("-abcdefghi0_30", "audio/-abcdefghi0_30.flac", "", ["Rain, and wind", "Rain falls"]),
        Sample("_abcdefghi1_0", "train/3.wav", "", ["A dog barks"]),
    ]
    assert rejects == {"zabcdefghi2_7": "no such media file"}
    touch(tmp_path, "train/2.wav", "train/zabcdefghi2.mp4")  # the id of any of a clip's rows
    assert [row.media for row in read("audiocaps", tmp_path)] == [
        "train/2.wav",
        "train/3.wav",
        "train/zabcdefghi2.mp4",
    ]


def test_of_files_of_one_name_the_earlier_folder_and_suffix_count(tmp_path: Path) -> None:
    touch(tmp_path, "b/1.wav", "a/1.mp3", "a/1.flac", "a/2.MP3", "b/3.txt", "b/deep/4.wav")
    assert find_media(tmp_path, ("none", "a", "b"), (".wav", ".flac", ".mp3")) == {
        "1": "a/1.flac",
        "2": "a/2.MP3",
    }


# ---------------------------------------------------------------- MSR-VTT


def msrvtt(root: Path) -> None:
    videos = [
        {"video_id": f"video{i}", "split": part, "category": 9, "start time": 1.0, "id": i}
        for i, part in enumerate(["train", "validate"])
    ]
    rows = [("video1", "a man\nsings"), ("video0", "a cat"), ("video1", "a song")]
    sentences = [
        {"caption": text, "video_id": video, "sen_id": i} for i, (video, text) in enumerate(rows)
    ]
    put(
        root / "train_val_videodatainfo.json",
        {"info": {}, "videos": videos, "sentences": sentences},
    )


def test_both_forms_of_msrvtt_give_the_same_samples(tmp_path: Path) -> None:
    msrvtt(tmp_path)
    touch(tmp_path, "TrainValVideo/video0.mp4", "videos/all/video1.avi")
    official = read("msrvtt", tmp_path)
    assert official == [
        Annotation("video0", "TrainValVideo/video0.mp4", "", ["a cat"]),
        Annotation("video1", "videos/all/video1.avi", "", ["a man sings", "a song"]),
    ]
    for rows in (
        [
            {"video": "video0.mp4", "caption": ["a cat"]},
            {"video": "video1.mp4", "caption": ["a man\nsings", "a song"]},
        ],
        [
            {"video": "video0.mp4", "caption": "a cat"},
            {"video": "video1.mp4", "caption": "a man\nsings"},
            {"video": "video1.mp4", "caption": "a song"},
        ],
    ):
        put(tmp_path / "msrvtt_caption_train7k.json", rows)
        (tmp_path / "train_val_videodatainfo.json").unlink(missing_ok=True)
        assert read("msrvtt", tmp_path) == official


# ---------------------------------------------------------------- malformed

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


# ---------------------------------------------------------------- real files


@pytest.fixture(scope="module")
def shared() -> Path:
    """The folder of small real data, see its SOURCES.md."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    path = Path(os.environ.get("DEPALM_SHARED", beside))
    if not path.is_dir():
        pytest.skip(f"no real data: {path} does not exist; set DEPALM_SHARED to its folder")
    return path


def test_real_coco(shared: Path) -> None:
    counts = {}
    for reader, split in [
        ("coco_karpathy", "train"),
        ("coco_karpathy", "val"),
        ("coco_karpathy", "test"),
        ("coco_2017", "train"),
        ("coco_2017", "val"),
    ]:
        samples, rejects = manifest(reader, shared / "image-caption", split)
        assert rejects == {}
        assert all(len(sample.references) >= 5 for sample in samples)
        counts[reader, split] = len(samples)
    assert counts["coco_2017", "train"] == 46
    assert counts["coco_2017", "val"] == 51
    assert counts["coco_karpathy", "val"] + counts["coco_karpathy", "test"] == 26
    official = {
        row.id: row
        for split in ("train", "val")
        for row in read("coco_2017", shared / "image-caption", split)
    }
    for row in read("coco_karpathy", shared / "image-caption", "val"):
        assert row.media == official[row.id].media
        assert sorted(row.references) == sorted(official[row.id].references)


def test_real_vqav2(shared: Path) -> None:
    template = {"texts": ["{question}\n\nAnswer:\n"]}
    root = shared / "vqa"
    samples, rejects = manifest("vqav2", root, "train", tolerated=1.0, templates=template)
    assert len(samples) + len(rejects) == 175
    assert set(rejects.values()) <= {"no such media file"}
    assert len(samples) > 100
    assert all(len(sample.references) == 10 for sample in samples)
    assert all(sample.prompt.endswith("?\n\nAnswer:\n") for sample in samples)
    assert all((root / media).is_file() for media in unique_media(samples))


def test_real_okvqa_questions(shared: Path, tmp_path: Path) -> None:
    """Real questions and images; the official answers are not there, so the test writes some."""
    questions = shared / "vqa/okvqa/OpenEnded_mscoco_val2014_questions.json"
    shutil.copy(questions, tmp_path)
    (tmp_path / "val2014").symlink_to(shared / "vqa/val2014")
    rows = [
        {"question_id": row["question_id"], "answers": answers(TEN)}
        for row in json.loads(questions.read_text())["questions"]
    ]
    put(tmp_path / "mscoco_val2014_annotations.json", {"annotations": rows})
    samples, rejects = manifest("okvqa", tmp_path, "val", tolerated=1.0)
    assert len(samples) + len(rejects) == 44
    assert len(samples) > 20
    assert all(sample.media.startswith("val2014/COCO_val2014_") for sample in samples)


def test_real_aokvqa(shared: Path, tmp_path: Path) -> None:
    subset = tmp_path / "subset"
    subset.mkdir()
    source = shared / "vqa/aokvqa"
    shutil.copy(source / "aokvqa_v1p0_val.subset.json", subset / "aokvqa_v1p0_val.json")
    for folder in ("train2014", "val2014"):
        (subset / folder).symlink_to(shared / "vqa" / folder)
    for folder in ("train2017", "val2017"):
        (subset / folder).symlink_to(shared / "image-caption" / folder)
    rows = json.loads((source / "aokvqa_v1p0_val.json").read_text())
    hard = sum(row["difficult_direct_answer"] for row in rows)
    assert (len(rows), hard) == (1145, 70)
    samples, rejects = manifest("aokvqa", subset, "val")
    assert (len(samples), len(unique_media(samples)), rejects) == (32, 31, {})
    everything = read("aokvqa", source, "val")
    assert len(everything) == 1075
    assert all(len(row.references) == 10 for row in everything)
    assert len(read("aokvqa_choices", source, "val")) == 1145


def test_real_audiocaps(shared: Path, tmp_path: Path) -> None:
    source = shared / "audio-caption"
    assert len(read("audiocaps", source, "val")) == 495
    everything, rejects = manifest("audiocaps", source, "test", tolerated=0.99)
    assert (len(everything), len(rejects)) == (13, 962)
    assert set(rejects.values()) == {"no such media file"}
    with pytest.raises(RejectError, match="962 of 975 rejected"):
        manifest("audiocaps", source, "test", tolerated=0.5)

    shutil.copy(source / "test.subset13.csv", tmp_path / "test.csv")
    (tmp_path / "audio").symlink_to(source / "test")
    samples, rejects = manifest("audiocaps", tmp_path, "test")
    assert (len(samples), rejects) == (13, {})
    assert all(len(sample.references) == 5 for sample in samples)
    assert all(sample.media == f"audio/{sample.id}.wav" for sample in samples)

    shutil.copy(source / "train.first500.csv", tmp_path / "train.csv")
    assert {len(row.references) for row in read("audiocaps", tmp_path)} == {1}


def test_real_msrvtt_annotations(shared: Path, tmp_path: Path) -> None:
    for name in ("train_val_annotation.zip", "test_videodatainfo.json.zip"):
        with zipfile.ZipFile(shared / "video-caption/msrvtt_official" / name) as archive:
            archive.extractall(tmp_path)
    for split, count in (("train", 7010), ("test", 2990)):
        rows = read("msrvtt", tmp_path, split)
        assert len(rows) == count
        assert {len(row.references) for row in rows} == {20}
    assert rows[0].media == "videos/all/video7010.mp4"


def test_real_clips_in_msrvtts_form(shared: Path) -> None:
    samples, rejects = manifest("msrvtt", shared / "video-caption", "test")
    assert (len(samples), rejects) == (10, {})
    assert {Path(sample.media).suffix for sample in samples} == {".avi", ".mp4"}


def test_real_msvd_clips_by_a_users_own_manifest(shared: Path, tmp_path: Path) -> None:
    source = shared / "video-caption"
    (tmp_path / "videos").symlink_to(source / "videos")
    rows = json.loads((source / "msvd_testing_label.subset5.json").read_text())
    lines = [{"media": f"videos/all/{r['id']}", "references": r["caption"]} for r in rows]
    (tmp_path / "manifest.test.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    samples, rejects = manifest("generic", tmp_path, "test")
    assert (len(samples), rejects) == (5, {})
    assert sum(len(sample.references) for sample in samples) == 82


def test_real_textvqa_questions(shared: Path, tmp_path: Path) -> None:
    """Those of test have no answers, which is named; with answers of VQA's form they are read."""
    source = shared / "vqa/textvqa"
    content = json.loads((source / "TextVQA_0.5.1_test.first100.json").read_text())
    put(tmp_path / "TextVQA_0.5.1_train.json", content)
    with pytest.raises(AnnotationError, match=r"row 0 is not .*answers"):
        read("textvqa", tmp_path)
    rows = [{**row, "answers": TEN} for row in content["data"]]
    put(tmp_path / "TextVQA_0.5.1_train.json", {**content, "data": rows})
    assert len(read("textvqa", tmp_path)) == 100


def test_a_key_or_a_column_given_twice_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"id": 1, "id": 2}]')
    with pytest.raises(AnnotationError, match=r"a\.json cannot be read: the key 'id' stands twice"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.csv").write_text("id,media,id\n1,2,3\n")
    with pytest.raises(AnnotationError, match=r"a\.csv, line 1: the header has id twice"):
        list(read_csv(tmp_path / "a.csv"))
