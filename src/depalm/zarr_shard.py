"""Arrays of 2-byte values in one zarr shard file: appended row by row, read at random.

The file is that of the codec `sharding_indexed` (zarr v3 specification) for an array [N, A, B] of
one shard, whose inner chunks are the uncompressed rows [1, A, B]: the rows, then an index of
(offset, length) for each, as little-endian 64-bit integers, then the index's CRC-32C. zarr-python
writes such a file out of an array in memory; here the rows come one after another, so that a shard
may be larger than the memory, and N need not be known before the end.
"""

import hashlib
from contextlib import ExitStack
from math import prod
from pathlib import Path

import google_crc32c
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ITEM = 2  # bytes of a value
INDEX_ENTRY = 16  # bytes: offset and length of a row


class ShardError(RuntimeError):
    """A shard file that is missing, damaged, or laid out by other software."""


class AppendedArray:
    """Writes the rows of an array to `directory` as they come; `files` closes it on an error."""

    def __init__(self, directory: Path, row: tuple[int, int], files: ExitStack):
        self.row, self.rows = row, 0
        self.path = _shard_file(directory)
        self.path.parent.mkdir(parents=True)
        self.stream = files.enter_context(self.path.open("wb"))
        self.digest = hashlib.sha256()

    def append(self, rows: Tensor) -> None:
        """Append rows [B, *row] of a 2-byte type, contiguous and on the CPU."""
        if rows.shape[1:] != self.row:
            raise ShardError(f"{self.path}: rows are {self.row}, not {tuple(rows.shape[1:])}")
        content = rows.view(torch.uint8).numpy().data
        self.stream.write(content)
        self.digest.update(content)
        self.rows += len(rows)

    def finish(self) -> str:
        """Write the index; return the SHA-256 of all rows."""
        length = prod(self.row) * ITEM
        index = np.full((self.rows, 2), length, dtype="<u8")
        index[:, 0] *= np.arange(self.rows, dtype="<u8")
        content = index.tobytes()
        self.stream.write(content + _crc32c(content))
        self.stream.close()
        if not self.rows:
            self.path.unlink()  # an array without rows has no chunk, and so no file
        return self.digest.hexdigest()


class MappedArray:
    """Reads the rows of the array of `shape` [N, A, B] in `directory`, mapped into memory.

    Raises ShardError if the file is missing, or its index damaged or not that of whole rows.
    """

    def __init__(self, directory: Path, shape: tuple[int, ...]):
        self.rows, *row = shape
        self.row_shape, self.row_values = tuple(row), prod(row)
        if not self.rows:
            return
        path = _shard_file(directory)
        try:
            self.content = np.memmap(path, mode="r", dtype=np.uint8)
        except (OSError, ValueError) as error:
            raise ShardError(f"{path} is missing or empty") from error
        index = self.content[-self.rows * INDEX_ENTRY - 4 : -4].tobytes()
        if _crc32c(index) != self.content[-4:].tobytes():
            raise ShardError(f"{path} has a damaged index")
        entries = np.frombuffer(index, "<u8").reshape(-1, 2)
        if len(entries) != self.rows or (entries[:, 1] != self.row_values * ITEM).any():
            raise ShardError(f"{path} does not hold {self.rows} rows, uncompressed")
        self.offsets = entries[:, 0]

    def row_at(self, index: int) -> NDArray[np.int16]:
        """The bits of a row [A, B], not copied."""
        offset = int(self.offsets[index])
        return np.frombuffer(self.content, "<i2", self.row_values, offset).reshape(self.row_shape)

    def sha256(self) -> str:
        """SHA-256 of all rows, read anew."""
        digest = hashlib.sha256()
        for index in range(self.rows):
            digest.update(self.row_at(index).data)
        return digest.hexdigest()


def _crc32c(content: bytes) -> bytes:
    return int(google_crc32c.value(content)).to_bytes(4, "little")


def _shard_file(array: Path) -> Path:
    """The only shard of a three-dimensional array, by zarr's default chunk key encoding."""
    return array / "c" / "0" / "0" / "0"
