"""A shard as a zarr v3 group that any zarr library can read.

    {name}.zarr/
        zarr.json           as the group's attributes `depalm`, the metadata, and the CRC-32C of its
                            canonical JSON
        cls/                [N, L, D]
        tokens/layer_{l}/   [N, T, D]

An array is one file, that of the codec `sharding_indexed` (zarr v3 specification) whose inner
chunks are the uncompressed rows [1, A, B]: the rows, then an index of (offset, length) for each, as
little-endian 64-bit integers, then the index's CRC-32C. zarr-python writes such a file out of an
array in memory; here the rows come one after another, so that a shard may be larger than the
memory, and N need not be known before the end.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from depalm.cache.errors import ShardError
from depalm.cache.formats import INDEX_ENTRY, ITEM, Rows
from depalm.cache.shard import Bits, Layout, Shard, StoredRows, crc32c, map_file, rows_in
from depalm.files import atomic_directory


class AppendedArray:
    """Writes the rows of an array to `directory` as they come; `files` closes it on an error."""

    def __init__(self, directory: Path, row: tuple[int, int], files: ExitStack):
        self.row, self.rows = row, 0
        self.path = _array_file(directory)
        self.path.parent.mkdir(parents=True)
        self.stream = files.enter_context(self.path.open("wb"))

    def append(self, rows: Bits) -> None:
        self.stream.write(rows.data)
        self.rows += len(rows)

    def finish(self) -> None:
        """Write the index."""
        length = prod(self.row) * ITEM
        index = np.full((self.rows, 2), length, dtype="<u8")
        index[:, 0] *= np.arange(self.rows, dtype="<u8")
        content = index.tobytes()
        self.stream.write(content + crc32c(content))
        self.stream.close()
        if not self.rows:
            self.path.unlink()  # an array without rows has no chunk, and so no file


class ZarrWriter:
    """Appends samples to the arrays of one group; made by `write_zarr`."""

    def __init__(self, directory: Path, rows: Rows, dtype: str, files: ExitStack):
        self.directory, self.dtype = directory, dtype
        self.arrays = {
            name: AppendedArray(directory / name, row, files) for name, row in rows.items()
        }

    def append(self, ids: Sequence[str], rows: Mapping[str, Bits]) -> None:  # noqa: ARG002
        for name, array in self.arrays.items():
            array.append(rows[name])

    def finish(self, metadata: Mapping[str, Any]) -> None:
        attributes = {"depalm": dict(metadata), "crc32c": _checksum(metadata)}
        group = zarr.create_group(self.directory, attributes=attributes, zarr_format=3)
        group.create_group("tokens")
        for name, array in self.arrays.items():
            array.finish()
            group.create_array(
                name,
                shape=(array.rows, *array.row),
                dtype=self.dtype,
                chunks=(1, *array.row),
                shards=(max(1, array.rows), *array.row),
                compressors=None,
                fill_value=0,
                dimension_names=("sample", "layer" if name == "cls" else "token", "width"),
            )


@contextmanager
def write_zarr(path: Path, rows: Rows, dtype: str) -> Iterator[ZarrWriter]:
    """Yield the writer of the group `path`, which appears whole if the block succeeds."""
    with atomic_directory(path) as directory, ExitStack() as files:
        yield ZarrWriter(directory, rows, dtype, files)


def open_zarr(path: Path) -> Shard:
    """Raises ShardError if `path` is no such group, or a file of it is missing or damaged."""
    try:
        content: Any = json.loads((path / "zarr.json").read_bytes())
        attributes = content["attributes"]
    except OSError as error:
        raise ShardError(f"{path} is not a zarr group: {error.strerror}") from error
    except (ValueError, LookupError, TypeError) as error:
        raise ShardError(f"{path}/zarr.json is damaged") from error
    if "samples" in attributes:
        raise ShardError(f"{path} was made by an earlier version of depalm")
    metadata = attributes.get("depalm")
    if metadata is not None and _checksum(metadata) != attributes.get("crc32c"):
        raise ShardError(f"{path}/zarr.json is damaged")
    rows = rows_in(path, metadata)
    samples = len(metadata["samples"])
    return Shard(
        path, metadata, {name: _map_array(path / name, samples, row) for name, row in rows.items()}
    )


def _checksum(metadata: Mapping[str, Any]) -> str:
    return crc32c(json.dumps(metadata, sort_keys=True).encode()).hex()


def _map_array(directory: Path, samples: int, row: tuple[int, int]) -> StoredRows:
    if not samples:
        return StoredRows(np.empty(0, np.uint8), np.empty(0, np.uint64), row)
    path = _array_file(directory)
    content = map_file(path)
    index = content[-samples * INDEX_ENTRY - 4 : -4].tobytes()
    if crc32c(index) != content[-4:].tobytes():
        raise ShardError(f"{path} has a damaged index")
    entries = np.frombuffer(index, "<u8").reshape(-1, 2)
    if len(entries) != samples or (entries[:, 1] != prod(row) * ITEM).any():
        raise ShardError(f"{path} does not hold {samples} rows, uncompressed")
    return StoredRows(content, entries[:, 0], row)


def _array_file(array: Path) -> Path:
    """The only shard of a three-dimensional array, by zarr's default chunk key encoding."""
    return array / "c" / "0" / "0" / "0"


LAYOUT = Layout(write_zarr, open_zarr)
