"""The formats of a shard: their names, suffixes and sizes. What reads and writes a format is
imported on first use, so that a plan, which needs no more than a suffix, stays light.
"""

import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

import numpy as np

from depalm.cache.errors import CacheError
from depalm.registry import Registry

if TYPE_CHECKING:
    from depalm.cache.shard import Layout

ITEM = 2  # bytes of a value
INDEX_ENTRY = 16  # bytes in a zarr shard's index: offset and length of a row
BLOCK = tarfile.BLOCKSIZE  # of 512 bytes: a member is a header of one, and content in whole ones
OFFSET = "<i8"  # in the index of a tar shard
Row = tuple[int, int]  # the shape of what an array holds of a sample
Rows = Mapping[str, Row]  # the arrays of a shard, by name


@dataclass(frozen=True)
class Format:
    """A way to lay out a shard, told by the suffix of its name.

    On disk a row takes `row_bytes` of its shape, and a sample `sample_bytes` besides its rows.
    `module` has what writes and reads it, as `LAYOUT`.
    """

    suffix: str
    row_bytes: Callable[[Row], int]
    sample_bytes: int
    module: str

    @property
    def layout(self) -> "Layout":
        layout: Layout = resolve_name(f"{self.module}:LAYOUT")
        return layout


def format_of(path: Path | str) -> Format:
    """The format of the shard `path`, by its suffix. Raises CacheError."""
    for known in FORMATS.values():
        if Path(path).suffix == known.suffix:
            return known
    suffixes = ", ".join(known.suffix for known in FORMATS.values())
    raise CacheError(f"{path} has not the suffix of a shard: {suffixes}")


def array_rows(shape: Mapping[str, int], layers: Sequence[int]) -> dict[str, Row]:
    """The arrays of a shard: the summary token of every block [L, D], and all tokens [T, D] of each
    layer.
    """
    of_layer = {f"tokens/layer_{layer}": (shape["tokens"], shape["width"]) for layer in layers}
    return {"cls": (shape["layers"], shape["width"]), **of_layer}


def predicted_bytes(
    known: Format, samples: int, shape: Mapping[str, int], layers: Sequence[int]
) -> dict[str, int]:
    """Bytes on disk of each array of `samples`; but for the metadata (some kilobytes and the ids).

    What a format keeps of a sample besides its rows counts as part of `cls`.
    """
    sizes = {
        name: samples * known.row_bytes(row) for name, row in array_rows(shape, layers).items()
    }
    return sizes | {"cls": sizes["cls"] + samples * known.sample_bytes}


def zarr_row_bytes(row: Row) -> int:
    """The values, not compressed, and an entry of the index."""
    return prod(row) * ITEM + INDEX_ENTRY


def tar_row_bytes(row: Row) -> int:
    """A header, content in whole blocks, and an offset; headers are equally long for any dtype."""
    length = len(npy_header(row, "float16")) + prod(row) * ITEM
    return BLOCK + length + -length % BLOCK + np.dtype(OFFSET).itemsize


def npy_header(shape: Row, dtype: str) -> bytes:
    """Magic and header of a .npy file (version 1.0), in front of its little-endian values."""
    stream = io.BytesIO()
    description = np.lib.format.dtype_to_descr(np.dtype(dtype).newbyteorder("<"))
    np.lib.format.write_array_header_1_0(
        stream, {"descr": description, "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


FORMATS: Registry[Format] = Registry(
    {
        "zarr": Format(".zarr", zarr_row_bytes, 0, "depalm.cache.zarr_shard"),
        # besides its rows a sample has {row}.media.txt, of an id of up to 512 bytes
        "webdataset": Format(".tar", tar_row_bytes, 2 * BLOCK, "depalm.cache.tar_shard"),
    }
)
