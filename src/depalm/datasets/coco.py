"""COCO (Lin et al. 2014): where its images lie, Karpathy's split, and the captions."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from depalm.datasets.annotations import Annotation, find_media, one_line, read_rows, texts
from depalm.errors import AnnotationError

_FOLDERS = ("train2014", "val2014", "train2017", "val2017")
IMAGE_FOLDERS = (*_FOLDERS, *(f"images/{folder}" for folder in _FOLDERS))
IMAGE_NAME = re.compile(r"(?:COCO_(?:train|val)2014_)?(\d{12})(?:\.jpg)?")


def coco_id(name: str, where: str) -> int:
    """The id of an image by its name of 2014 (COCO_val2014_000000000042.jpg) or of 2017."""
    match = IMAGE_NAME.fullmatch(name)
    if not match:
        raise AnnotationError(f"{where}: {name!r} is not the name of a COCO image")
    return int(match[1])


def coco_media(root: Path) -> Callable[[int], str]:
    """A function from image id to path below `root`.

    The images of 2014 and of 2017 are the same ones under other names, so either year will do:
    train2014/COCO_train2014_{id:012}.jpg, val2014/COCO_val2014_{id:012}.jpg, or
    train2017/{id:012}.jpg, val2017/{id:012}.jpg; or these folders in images/, or .jpeg. An image in
    none of these is at {id:012}.jpg.
    """
    found = find_media(root, IMAGE_FOLDERS, (".jpg", ".jpeg"))
    by_id: dict[int, str] = {}
    for name, path in found.items():
        if match := IMAGE_NAME.fullmatch(name):
            by_id.setdefault(int(match[1]), path)
    return lambda image: by_id.get(image, f"{image:012}.jpg")


def read_coco_karpathy(root: Path, split: str) -> Iterator[Annotation]:
    """Captions of COCO in Karpathy's split: train, val, test (82,783, 5,000, 5,000 images).

    dataset_coco.json of Karpathy and Fei-Fei (2015); of the 30,504 further images that it calls
    `restval` none is used. About five captions an image.
    """
    media = coco_media(root)
    for image, part, sentences in karpathy_rows(root):
        if part == split:
            yield Annotation(str(image), media(image), "", sentences)


def karpathy_rows(root: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Image id, split (train, restval, val or test) and captions in dataset_coco.json."""
    path = root / "dataset_coco.json"
    for number, row in enumerate(read_rows(path, "images")):
        where = f"{path}: image {number}"
        match row:
            case {"filename": str(name), "split": str(part), "sentences": list(sentences)}:
                captions = texts(sentences, "raw", f"{where}, sentences,")
                yield coco_id(name, where), part, [one_line(caption) for caption in captions]
            case _:
                raise AnnotationError(f"{where} is not {KARPATHY_IMAGE}")


def read_coco_2014(root: Path, split: str) -> Iterator[Annotation]:
    """Captions of COCO in the official split of 2014: train, val (82,783, 40,504 images)."""
    return _official_captions(root, f"{split}2014")


def read_coco_2017(root: Path, split: str) -> Iterator[Annotation]:
    """Captions of COCO in the official split of 2017: train, val (118,287, 5,000 images)."""
    return _official_captions(root, f"{split}2017")


def _official_captions(root: Path, part: str) -> Iterator[Annotation]:
    """annotations/captions_{part}.json: images {id}, and annotations {image_id, caption}."""
    media = coco_media(root)
    path = root / "annotations" / f"captions_{part}.json"
    captions: dict[int, list[str]] = {}
    for number, row in enumerate(read_rows(path, "images")):
        match row:
            case {"id": int(image)} if image not in captions:
                captions[image] = []
            case _:
                raise AnnotationError(f"{path}: image {number} has no id, or that of another")
    for number, row in enumerate(read_rows(path, "annotations")):
        match row:
            case {"image_id": int(image), "caption": str(caption)} if image in captions:
                captions[image].append(one_line(caption))
            case _:
                raise AnnotationError(f"{path}: annotation {number} is not {OFFICIAL_CAPTION}")
    for image, lines in captions.items():
        yield Annotation(str(image), media(image), "", lines)


KARPATHY_IMAGE = '{"filename", "split", "sentences": [{"raw"}, ...]}'
OFFICIAL_CAPTION = '{"image_id" (of one of the images), "caption"}'
