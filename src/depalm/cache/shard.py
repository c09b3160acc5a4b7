"""What the formats of a shard share: named arrays of 2-byte values, a row for each medium, and a
checksum of each row.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from depalm.cache.errors import DamagedRow, ShardError
from depalm.cache.formats import ITEM, Rows, array_rows
from depalm.cache.http_file import RemoteFile
from depalm.sources.http import CONNECTIONS

NEAR = 2**16  # bytes between two rows that are read along with them rather than ask a server twice
# metadata in which the shards of one cache may differ
OF_A_SHARD = ("depalm_version", "arrays", "samples", "rejected", "crc32c")
Bits = NDArray[np.int16]


class RowWriter(Protocol):
    """Appends samples to the arrays of a shard that is being written."""

    def append(self, ids: Sequence[str], rows: Mapping[str, Bits]) -> None:
        """Append B samples: the bits of rows [B, *row] of each array, contiguous."""
        ...

    def finish(self, metadata: Mapping[str, Any]) -> None:
        """Write what stands behind the rows; nothing is appended any more."""
        ...


class Content(Protocol):
    """The bytes of a file, mapped into memory or on a web server."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> NDArray[np.uint8]: ...


@dataclass(frozen=True)
class StoredRows:
    """Rows of one array in a file; `offsets` [N] are in bytes."""

    content: Content
    offsets: NDArray[np.integer[Any]]
    row: tuple[int, int]

    def span(self, index: int) -> tuple[int, int]:
        """Where the bytes of a row start and stop."""
        start = int(self.offsets[index])
        return start, start + prod(self.row) * ITEM

    def decode(self, content: NDArray[np.uint8]) -> Bits:
        """The bits of a row [A, B] out of its bytes, not copied."""
        return content.view("<i2").reshape(self.row)


@dataclass(frozen=True)
class Shard:
    """An opened shard: its metadata, and its arrays by name."""

    path: Path | str
    metadata: Mapping[str, Any]
    arrays: Mapping[str, StoredRows]

    def rows(self, index: int, names: Sequence[str]) -> list[Bits]:
        """The bits of a sample's row [A, B] in each of the arrays, neither copied nor verified."""
        arrays = [self.arrays[name] for name in names]
        return [array.decode(array.content[slice(*array.span(index))]) for array in arrays]

    def check(self, index: int, name: str, row: Bits) -> None:
        """Raise DamagedRow if a row is not as it was written. That of a copy is cheaper to know,
        for it lies in the processor's cache.
        """
        if checksum(row) != self.metadata["crc32c"][name][index]:
            raise DamagedRow(self.path, self.metadata["samples"][index], name)

    def verified(self, index: int, names: Sequence[str]) -> list[Bits]:
        """As `rows`. Raises DamagedRow."""
        rows = self.rows(index, names)
        for name, row in zip(names, rows, strict=True):
            self.check(index, name, row)
        return rows


class StreamedShard(Shard):
    """A shard on a web server, all arrays of which lie in one file."""

    def rows(self, index: int, names: Sequence[str]) -> list[Bits]:
        """As of any shard; what lies close together is one request. Raises DownloadError."""
        spans = sorted((*self.arrays[name].span(index), name) for name in names)
        requests: list[list[tuple[int, int, str]]] = []
        for i, span in enumerate(spans):
            if i == 0 or span[0] - spans[i - 1][1] > NEAR:
                requests.append([])
            requests[-1].append(span)
        found = {}
        for request in requests:
            first, last = request[0][0], request[-1][1]
            content = self.arrays[request[0][2]].content[first:last]
            for start, stop, name in request:
                found[name] = self.arrays[name].decode(content[start - first : stop - first])
        return [found[name] for name in names]


@dataclass(frozen=True)
class Layout:
    """Writer and reader of the shards of a format.

    `write` (path, arrays, dtype of the stored bits) gives a writer whose shard appears whole at the
    end of the context; `open` raises ShardError. `stream` opens a shard on a web server, if it can
    be read from there, and raises DownloadError too.
    """

    write: Callable[[Path, Rows, str], AbstractContextManager[RowWriter]]
    open: Callable[[Path], Shard]
    stream: Callable[[RemoteFile], StreamedShard] | None = None


def read_rows(requests: Sequence[tuple[Shard, int, Sequence[str]]]) -> list[list[Bits]]:
    """`Shard.rows` of (shard, index, arrays); those on a web server some at a time."""

    def rows(request: tuple[Shard, int, Sequence[str]]) -> list[Bits]:
        shard, index, names = request
        return shard.rows(index, names)

    if not any(isinstance(shard, StreamedShard) for shard, _, _ in requests):
        return [rows(request) for request in requests]
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return list(pool.map(rows, requests))


def rows_in(path: Path | str, metadata: Mapping[str, Any]) -> Rows:
    """The arrays that the metadata found in `path` tells of. Raises ShardError if it does not."""
    if not isinstance(metadata, Mapping) or not metadata.keys() >= {"shape", "dtype", *OF_A_SHARD}:
        raise ShardError(f"{path} is not a shard of a token cache")
    return array_rows(metadata["shape"], metadata["arrays"])


def map_file(path: Path) -> NDArray[np.uint8]:
    """The bytes of a file, mapped into memory. Raises ShardError."""
    try:
        return np.asarray(np.memmap(path, mode="r", dtype=np.uint8))  # slices of it are cheaper
    except (OSError, ValueError) as error:
        raise ShardError(f"{path} is missing or empty") from error


def checksum(values: NDArray[Any]) -> int:
    """The CRC-32C of the bytes of a contiguous array."""
    return int(google_crc32c.value(values))  # it takes an array, but no memoryview


def crc32c(content: bytes) -> bytes:
    return int(google_crc32c.value(content)).to_bytes(4, "little")
