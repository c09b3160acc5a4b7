"""What the formats of a shard share: named arrays of 2-byte values, a row for each sample."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import google_crc32c
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ITEM = 2  # bytes of a value
# metadata in which the shards of one cache may differ
OF_A_SHARD = ("depalm_version", "samples", "rejected", "sha256")
Rows = Mapping[str, tuple[int, int]]  # the arrays: name -> shape of a row


class ShardError(RuntimeError):
    """A shard that is missing, damaged, or laid out by other software."""


class RowWriter(Protocol):
    """Appends samples to the arrays of a shard that is being written."""

    def append(self, ids: Sequence[str], rows: Mapping[str, Tensor]) -> None:
        """Append B samples: rows [B, *row] of each array, contiguous and on the CPU."""
        ...

    def finish(self, metadata: Mapping[str, Any]) -> None:
        """Write what stands behind the rows; nothing is appended any more."""
        ...


@dataclass(frozen=True)
class MappedRows:
    """Rows of one array in a file that is mapped into memory; `offsets` [N] are in bytes."""

    content: NDArray[np.uint8]
    offsets: NDArray[np.integer[Any]]
    row: tuple[int, int]

    def __getitem__(self, index: int) -> NDArray[np.int16]:
        """The bits of a row [A, B], not copied."""
        offset = int(self.offsets[index])
        return np.frombuffer(self.content, "<i2", prod(self.row), offset).reshape(self.row)


@dataclass(frozen=True)
class Shard:
    """An opened shard: its metadata, and its arrays by name."""

    path: Path
    metadata: Mapping[str, Any]
    arrays: Mapping[str, MappedRows]


@dataclass(frozen=True)
class Format:
    """A way to lay out a shard, told by the suffix of its name.

    `write` (path, arrays, dtype of the stored bits) gives a writer whose shard appears whole at the
    end of the context; `open` raises ShardError. On disk a row takes `row_bytes` of its shape, and
    a sample `sample_bytes` besides its rows.
    """

    suffix: str
    write: Callable[[Path, Rows, str], AbstractContextManager[RowWriter]]
    open: Callable[[Path], Shard]
    row_bytes: Callable[[tuple[int, int]], int]
    sample_bytes: int


def array_rows(shape: Mapping[str, int], layers: Sequence[int]) -> dict[str, tuple[int, int]]:
    """The arrays of a shard: CLS of every block [L, D], and all tokens [T, D] of each layer."""
    of_layer = {f"tokens/layer_{layer}": (shape["tokens"], shape["width"]) for layer in layers}
    return {"cls": (shape["layers"], shape["width"]), **of_layer}


def rows_in(path: Path, metadata: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """The arrays that the metadata found in `path` tells of. Raises ShardError if it does not."""
    if not metadata.keys() >= {"shape", "layers", "dtype", *OF_A_SHARD}:
        raise ShardError(f"{path} is not a shard of a token cache")
    return array_rows(metadata["shape"], metadata["layers"])


def map_file(path: Path) -> NDArray[np.uint8]:
    """The bytes of a file, mapped into memory. Raises ShardError."""
    try:
        return np.memmap(path, mode="r", dtype=np.uint8)
    except (OSError, ValueError) as error:
        raise ShardError(f"{path} is missing or empty") from error


def bits(rows: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, not copied."""
    return rows.view(torch.uint8).flatten().numpy().data


def crc32c(content: bytes) -> bytes:
    return int(google_crc32c.value(content)).to_bytes(4, "little")
