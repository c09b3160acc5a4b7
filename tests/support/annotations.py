"""Small annotations in the official schemas."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from depalm.datasets.annotations import Annotation
from depalm.datasets.manifest import Sample, build_manifest
from depalm.datasets.readers import READERS
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


def coco_2017(root: Path) -> None:
    images = [{"id": 7, "file_name": "000000000007.jpg"}, {"id": 8, "file_name": "8.jpg"}]
    rows = [(7, "A cat."), (8, "A\u2028dog."), (7, " One cat \n")]
    captions = [{"id": i, "image_id": k, "caption": text} for i, (k, text) in enumerate(rows)]
    put(
        root / "annotations/captions_train2017.json",
        {"info": {}, "images": images, "annotations": captions},
    )


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
