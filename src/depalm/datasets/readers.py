"""The dataset readers by name, and that of a user's own samples."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from depalm.datasets.annotations import Annotation, read_csv, read_jsonl
from depalm.datasets.captions import MSRVTT_FILES, read_audiocaps, read_msrvtt, read_textcaps
from depalm.datasets.coco import read_coco_2014, read_coco_2017, read_coco_karpathy
from depalm.datasets.sharded import read_parquet, read_webdataset, sharded
from depalm.datasets.vqa import (
    read_aokvqa,
    read_aokvqa_choices,
    read_easy_vqa,
    read_okvqa,
    read_textvqa,
    read_vqav2,
    read_vqav2_karpathy,
)
from depalm.errors import AnnotationError


def read_generic(root: Path, split: str) -> Iterator[Annotation]:
    """A user's own samples: manifest.{split}.jsonl (one object a line) or manifest.{split}.csv.

    Fields: `media` (path relative to the root, or to the dataset's `media_root`); `question` (goes
    into the template) or `prompt` (used as it is), neither for captioning; `reference` (one text)
    or `references` (a list; in CSV a JSON list); `id`, by default the split and the number of the
    row.
    """
    path = next(
        (p for suffix in ("jsonl", "csv") if (p := root / f"manifest.{split}.{suffix}").is_file()),
        None,
    )
    if path is None:
        raise AnnotationError(
            f"{root} holds neither manifest.{split}.jsonl nor manifest.{split}.csv"
        )
    rows = read_jsonl(path) if path.suffix == ".jsonl" else _csv_rows(path)
    for number, row in enumerate(rows):
        yield _generic_row(row, f"{split}-{number}", f"{path}: row {number}")


def _generic_row(row: Mapping[str, Any], name: str, where: str) -> Annotation:
    unknown = row.keys() - GENERIC_FIELDS
    references = [row["reference"]] if "reference" in row else row.get("references")
    texts = [row.get("media"), *(row[key] for key in ("id", "question", "prompt") if key in row)]
    if unknown:
        raise AnnotationError(f"{where} has {sorted(unknown)}; fields are {sorted(GENERIC_FIELDS)}")
    if {"reference", "references"} <= row.keys() or {"question", "prompt"} <= row.keys():
        raise AnnotationError(f"{where} has two of which only one is allowed: {sorted(row)}")
    if not isinstance(references, list) or not all(
        isinstance(r, str) for r in (*texts, *references)
    ):
        raise AnnotationError(
            f"{where}: media and reference(s) are needed; references is a list of texts, and all "
            "other fields are texts"
        )
    return Annotation(
        row.get("id", name), row["media"], row.get("question", ""), references, row.get("prompt")
    )


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    for row in read_csv(path):
        if "references" in row:
            try:
                row["references"] = json.loads(row["references"])
            except json.JSONDecodeError as error:
                raise AnnotationError(
                    f"{path}: references must be a JSON list, not {row['references']!r}; "
                    "name the column `reference` if it is one text"
                ) from error
        yield row


GENERIC_FIELDS = {"id", "media", "question", "prompt", "reference", "references"}


@dataclass(frozen=True)
class Reader:
    """An annotation format.

    read: (root, split) -> the samples of a split, from the annotations below the root; media are
        not looked at. Raises AnnotationError.
    files: the annotation files of a split that it may read, below the root, or patterns of them:
        an edit of one is noticed.
    takes_columns: whether it is told what the columns are; `read` then takes them as a third
        argument, depalm.specs.dataset.Columns.
    names_media: whether the annotations name the media files, so that these may lie elsewhere
        (`media_root`); else the reader looks for them below the root.
    folders: the folder of the media that it names, and others in which they may lie instead.
    """

    read: Callable[..., Iterator[Annotation]]
    files: tuple[str, ...]
    takes_columns: bool = False
    names_media: bool = False
    folders: tuple[str, ...] = ()


KARPATHY = "dataset_coco.json"
TEXT_IMAGES = ("train_images", "train_val_images/train_images", "train_val_images", "images")
VQA_PAIR = (
    "{prefix}OpenEnded_mscoco_{part}2014_questions.json",
    "{prefix}mscoco_{part}2014_annotations.json",
)


def _pairs(prefix: str, *parts: str) -> tuple[str, ...]:
    return tuple(name.format(prefix=prefix, part=part) for part in parts for name in VQA_PAIR)


READERS = {
    "aokvqa": Reader(read_aokvqa, ("aokvqa_v1p0_{split}.json",)),
    "aokvqa_choices": Reader(read_aokvqa_choices, ("aokvqa_v1p0_{split}.json",)),
    "audiocaps": Reader(read_audiocaps, ("{split}.csv",)),
    "coco_2014": Reader(read_coco_2014, ("annotations/captions_{split}2014.json",)),
    "coco_2017": Reader(read_coco_2017, ("annotations/captions_{split}2017.json",)),
    "coco_karpathy": Reader(read_coco_karpathy, (KARPATHY,)),
    "easy_vqa": Reader(read_easy_vqa, ("{split}/questions.json",), names_media=True),
    "generic": Reader(
        read_generic, ("manifest.{split}.jsonl", "manifest.{split}.csv"), names_media=True
    ),
    "msrvtt": Reader(read_msrvtt, tuple(name for files in MSRVTT_FILES.values() for name in files)),
    "okvqa": Reader(read_okvqa, _pairs("", "{split}")),
    "okvqa_stemmed": Reader(partial(read_okvqa, key="answer"), _pairs("", "{split}")),
    "parquet": Reader(read_parquet, sharded(".parquet"), takes_columns=True),
    "textcaps": Reader(
        read_textcaps, ("TextCaps_0.1_{split}.json",), names_media=True, folders=TEXT_IMAGES
    ),
    "textvqa": Reader(
        read_textvqa, ("TextVQA_0.5.1_{split}.json",), names_media=True, folders=TEXT_IMAGES
    ),
    "vqav2": Reader(read_vqav2, _pairs("v2_", "{split}")),
    "vqav2_karpathy": Reader(
        read_vqav2_karpathy,
        ("karpathy_{split}.json", KARPATHY, *_pairs("v2_", "train", "val")),
    ),
    "webdataset": Reader(read_webdataset, sharded(".tar"), takes_columns=True),
}
