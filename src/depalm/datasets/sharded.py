"""Datasets whose media lie in their annotation files: tar shards of webdataset, parquet tables of
the Hub. They are read without unpacking, and neither holds a split in memory.
"""

import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from depalm.datasets.annotations import Annotation
from depalm.errors import AnnotationError
from depalm.specs.base import nearest
from depalm.specs.dataset import Columns

NAMES = {"val": ("val", "validation")}  # what a split is called in the names of files
PLACES = ("{name}/*", "{name}-*", "data/{name}-*", "data/{name}/*")
ROWS = 1000  # of a table that are read at a time
TEXTS = ("txt", "text", "json", "cls", "caption")  # suffixes of members that are no media


def sharded(suffix: str) -> tuple[str, ...]:
    """Where the shards of a split may lie, as patterns below the root; `validation` fits `val*`."""
    return tuple(f"{place.replace('{name}', '{split}*')}{suffix}" for place in PLACES)


def shards_of(root: Path, split: str, suffix: str) -> list[Path]:
    """The shards of a split, in the order of their names. Raises AnnotationError without any."""
    names = NAMES.get(split, (split,))
    for place in PLACES:
        for name in names:
            if found := sorted(root.glob(place.format(name=name) + suffix)):
                return found
    wanted = ", ".join(place.format(name=name) + suffix for place in PLACES for name in names)
    raise AnnotationError(f"{root} has no shards of {split}; they are looked for at {wanted}")


def read_webdataset(root: Path, split: str, columns: Columns) -> Iterator[Annotation]:
    """Tar shards of webdataset, such as img2dataset writes them: {split}/*.tar, {split}-*.tar, or
    those in data/.

    The members of a sample stand together, and have one name up to its first dot. A column is the
    member with that suffix, or else a key of the member .json. The medium is a member.
    """
    for path in shards_of(root, split, ".tar"):
        place = path.relative_to(root).as_posix()
        for key, members in _samples(path):
            row = _row(members, columns, f"{path}: {key}")
            media = f"{place}/{key}.{columns.media}"
            yield _annotation(row, columns, f"{place}/{key}", media, f"{path}: {key}")


def _samples(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The samples of a shard, as webdataset groups them: key, and the texts and JSON by suffix."""
    from webdataset.tariterators import group_by_keys, tar_file_iterator  # it takes torch

    try:
        with path.open("rb") as stream:
            files = tar_file_iterator(stream, select_files=_is_text)
            for sample in group_by_keys({**file, "__url__": str(path)} for file in files):
                texts = {k: v for k, v in sample.items() if isinstance(v, bytes)}
                yield sample["__key__"], texts
    except (OSError, ValueError, tarfile.TarError) as error:
        raise AnnotationError(f"{path} cannot be read: {error}") from error


def _is_text(name: str) -> bool:
    return name.rpartition(".")[2].lower() in TEXTS


def _row(members: Mapping[str, bytes], columns: Columns, where: str) -> dict[str, Any]:
    """The columns of a sample."""
    try:
        row = json.loads(members["json"]) if "json" in members else {}
        texts = {suffix: content.decode() for suffix, content in members.items()}
    except ValueError as error:
        raise AnnotationError(f"{where}: {error}") from error
    wanted = (columns.question, columns.prompt, columns.references, columns.id)
    return {**row, **{name: texts[name] for name in wanted if name in texts}}


def read_parquet(root: Path, split: str, columns: Columns) -> Iterator[Annotation]:
    """Parquet tables with the media inside, as the Hub has them: data/{split}-*.parquet,
    {split}-*.parquet or {split}/*.parquet.

    The medium is a column of bytes, or of {"bytes": ...}. References are a text or a list of texts.
    """
    import pyarrow as pa  # not before it is needed: a plan imports this module
    import pyarrow.parquet as pq

    number = 0
    for path in shards_of(root, split, ".parquet"):
        try:
            table = pq.ParquetFile(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise AnnotationError(f"{path} cannot be read: {error}") from error
        there = table.schema_arrow.names
        wanted = [name for name in columns.given().values() if name != columns.media]
        for name in (*wanted, columns.media):
            if name not in there:
                known = f"{nearest(name, there)}; there are: {', '.join(there)}"
                raise AnnotationError(f"{path} has no column {name!r}{known}")
        place, row = path.relative_to(root).as_posix(), 0
        for batch in table.iter_batches(ROWS, columns=wanted):
            for values in batch.to_pylist():
                media = f"{place}/{columns.media}/{row}"
                where = f"{path}: row {row}"
                yield _annotation(values, columns, f"{split}-{number}", media, where)
                row, number = row + 1, number + 1


def _annotation(
    row: Mapping[str, Any], columns: Columns, name: str, media: str, where: str
) -> Annotation:
    references = row.get(columns.references)
    texts = [references] if isinstance(references, str) else references
    question, prompt, key = (
        None if column is None else row.get(column)
        for column in (columns.question, columns.prompt, columns.id)
    )
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise AnnotationError(
            f"{where}: {columns.references} must be a text or a list of texts, not "
            f"{references!r:.100}"
        )
    for column, value in ((columns.question, question), (columns.prompt, prompt)):
        if column is not None and not isinstance(value, str):
            raise AnnotationError(f"{where}: {column} must be a text, not {value!r:.100}")
    return Annotation(name if key is None else str(key), media, question or "", texts, prompt)
