"""The dataset readers on small files in the official schemas."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from depalm.datasets.annotations import Annotation, find_media
from depalm.datasets.manifest import Sample, unique_media
from depalm.errors import AnnotationError
from depalm.evaluation.vqa_accuracy import answer_accuracy
from depalm.rejects import RejectError
from depalm.sources.convert import convert
from tests.support.annotations import (
    TEN,
    Writer,
    answers,
    aokvqa,
    audiocaps,
    coco_2017,
    coco_karpathy,
    hub_row,
    karpathy_question,
    manifest,
    msrvtt,
    okvqa,
    parquet,
    put,
    read,
    textcaps,
    textvqa,
    touch,
    vqav2,
)


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


def test_textvqa(tmp_path: Path) -> None:
    textvqa(tmp_path)
    media = "train_images/0a0bc91825468c45.jpg"
    assert read("textvqa", tmp_path) == [Annotation("34602", media, "what is the brand?", TEN)]


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


def test_textcaps_rows_are_grouped_by_image(tmp_path: Path) -> None:
    textcaps(tmp_path)
    assert read("textcaps", tmp_path) == [
        Annotation("a", "train_images/a.jpg", "", ["A sign says stop.", "Stop sign."]),
        Annotation("b", "train_images/b.jpg", "", ["A book."]),
    ]


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
