"""Media that lie inside other files: members of tar archives, and cells of parquet tables.

Such a medium has a path like any other, with its container in the place of a folder:

    train-00000.tar/000000012.jpg     the member 000000012.jpg
    train-00000.parquet/image/12      row 12 of the column image: bytes, or {"bytes": ...} as the
                                      datasets library of the Hub writes it

Containers are not unpacked, and none is held in memory as a whole.
"""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from depalm.errors import DepalmError

OPEN = 8  # containers whose index is kept


class ContainerError(DepalmError):
    """A container that cannot be read, or that lacks what is asked of it."""


def container_of(path: Path) -> Path | None:
    """The file in whose inside `path` lies; None if it is a path of its own."""
    try:
        path.lstat()
    except NotADirectoryError:
        return next(parent for parent in path.parents if parent.is_file())
    except OSError:
        return None
    return None


def read_inside(path: Path, container: Path) -> bytes:
    """The bytes of the medium `path` in a container. Raises ContainerError."""
    name = path.relative_to(container).as_posix()
    changed = container.stat().st_mtime_ns
    try:
        if container.suffix == ".tar":
            offset, length = tar_index(container, changed)[name]
            with container.open("rb") as stream:
                stream.seek(offset)
                return stream.read(length)
        column, _, row = name.rpartition("/")
        return _cell(container, changed, column, int(row))
    except (KeyError, ValueError, IndexError, OSError, tarfile.TarError) as error:
        raise ContainerError(f"{container} holds no medium {name}") from error


@contextmanager
def local_file(path: Path) -> Iterator[Path]:
    """The path of a file that has what `path` names: itself, or for as long as the context lasts a
    copy of what lies in a container. Raises ContainerError.
    """
    container = container_of(path)
    if container is None:
        yield path
        return
    with TemporaryDirectory() as folder:
        copy = Path(folder, f"medium{path.suffix}")
        copy.write_bytes(read_inside(path, container))
        yield copy


@lru_cache(OPEN)
def tar_index(path: Path, changed: int) -> dict[str, tuple[int, int]]:  # noqa: ARG001
    """Where each regular member of an archive lies: offset and length, by name; of an archive that
    was `changed` at that time. Raises TarError.
    """
    with tarfile.open(path, "r:") as archive:
        return {m.name: (m.offset_data, m.size) for m in archive if m.isreg()}


def _cell(path: Path, changed: int, column: str, row: int) -> bytes:
    """Raises KeyError or IndexError for a cell that is not there."""
    import pyarrow.parquet as pq  # not before it is needed: a plan imports this module

    first, group = 0, 0
    table = pq.ParquetFile(path)
    while row >= first + table.metadata.row_group(group).num_rows:
        first += table.metadata.row_group(group).num_rows
        group += 1
    value = _group(path, changed, column, group)[row - first].as_py()
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise KeyError(column)
    return content


@lru_cache(2)
def _group(path: Path, changed: int, column: str, group: int) -> Any:  # noqa: ARG001
    """A column of a row group, as pyarrow has it."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(path).read_row_group(group, columns=[column]).column(column)
