"""TextVQA as parquet, images inside, the form in which hubs have it -> its official form."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from depalm.errors import AnnotationError
from depalm.files import OutsideError, inside, write_json

COLUMNS = ("question_id", "image_id", "question", "answers", "set_name", "image")
SPLITS = ("train", "val", "test")
ROWS = 64  # so many images are in memory


def convert_textvqa_parquet(download: Path, output: Path) -> None:
    """Parquet files, in any folder of `download` -> what depalm.datasets.vqa.read_textvqa reads.

    The columns are those of the official rows and `image` {bytes}; the row's `set_name` (train, val
    or test) tells its split. Written are TextVQA_0.5.1_{split}.json and each image once, as it was
    encoded: train_images/{image_id}.jpg, test_images/{image_id}.jpg. Raises AnnotationError if a
    file is not such a one, or an image would lie elsewhere. Writes into `output`, which exists.
    """
    paths = sorted(download.rglob("*.parquet"))
    if not paths:
        raise AnnotationError(f"{download} holds no parquet file")
    splits: dict[str, list[dict[str, Any]]] = {}
    for path in paths:
        try:
            for batch in pq.ParquetFile(path).iter_batches(ROWS, columns=list(COLUMNS)):
                for row in batch.to_pylist():
                    if row["set_name"] not in SPLITS:
                        raise ValueError(f"set_name {row['set_name']!r} is none of {SPLITS}")
                    _write_image(row["image_id"], row.pop("image"), row["set_name"], output)
                    row["question_id"] = int(row["question_id"])  # in some copies it is text
                    splits.setdefault(row["set_name"], []).append(row)
        except (OutsideError, OSError, ValueError, KeyError, TypeError) as error:
            raise AnnotationError(f"{path} is not TextVQA as parquet: {error}") from error
    for split, rows in splits.items():
        header = {"dataset_type": split, "dataset_name": "textvqa", "dataset_version": "0.5.1"}
        write_json(output / f"TextVQA_0.5.1_{split}.json", {**header, "data": rows})


def _write_image(name: str, image: dict[str, Any], split: str, output: Path) -> None:
    folder = output / ("test_images" if split == "test" else "train_images")
    inside(folder, name)  # with the suffix, an empty one would do
    path = inside(folder, f"{name}.jpg")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image["bytes"])
