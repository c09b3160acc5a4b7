"""The formats of a shard: their names, suffixes and sizes. What reads and writes a format is
imported on first use, so that a plan, which needs no more than a suffix, stays light.
"""

import io
import re
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
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
UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")
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


CLS = "cls"  # the array of the summary tokens
LAYERS = re.compile(rf"({CLS}|\d+)(-\d+)*")  # of some arrays, in the name of a file


def array_names(layers: Sequence[int], cls_only: bool) -> list[str]:
    """The arrays that hold what is read of `layers`: all tokens, or the summary tokens alone."""
    return [CLS] if cls_only else [f"tokens/layer_{layer}" for layer in sorted(layers)]


def layers_of(names: Iterable[str]) -> str:
    """Arrays as they stand in a path: cls-3-11, where cls is the summary tokens of every layer."""
    layers = sorted(_layer(name) for name in names)
    return "-".join(CLS if layer < 0 else str(layer) for layer in layers)


def arrays_of(layers: str) -> list[str]:
    """The inverse of `layers_of`. Raises CacheError."""
    if not LAYERS.fullmatch(layers):
        raise CacheError(f"{layers!r} names no layers: write cls, 11, 3-11 or cls-3-11")
    return [CLS if part == CLS else f"tokens/layer_{int(part)}" for part in layers.split("-")]


def array_rows(shape: Mapping[str, int], names: Iterable[str]) -> dict[str, Row]:
    """The shape of a medium's row in each of the arrays: the summary token of every layer [L, D] in
    `cls`, all tokens of a layer [T, D] in any other. Raises CacheError for a layer that is not one
    of the backbone's.
    """
    found: dict[str, Row] = {}
    for name in names:
        layer = _layer(name)
        if layer >= shape["layers"] or name in found:
            last = shape["layers"] - 1
            raise CacheError(f"layers {list(names)} must differ, and lie in 0..{last}")
        found[name] = (shape["layers" if layer < 0 else "tokens"], shape["width"])
    return found


def _layer(array: str) -> int:
    """The layer of an array; -1 of the summary tokens."""
    return -1 if array == CLS else int(array.removeprefix("tokens/layer_"))


def predicted_bytes(
    known: Format, samples: int, shape: Mapping[str, int], names: Iterable[str]
) -> dict[str, int]:
    """Bytes on disk of each array of `samples`; but for the metadata (some kilobytes, and 100 bytes
    a sample).

    What a format keeps of a sample besides its rows counts as part of the first.
    """
    rows = array_rows(shape, names)
    sizes = {name: samples * known.row_bytes(row) for name, row in rows.items()}
    first = next(iter(sizes))
    return sizes | {first: sizes[first] + samples * known.sample_bytes}


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


def in_units(size: int) -> str:
    """Bytes in the unit in which a number of them is easiest to read: 14.2 MB."""
    value, unit = float(size), 0
    while value >= 999.95 and unit + 1 < len(UNITS):
        value, unit = value / 1000, unit + 1
    return f"{value:.1f} {UNITS[unit]}" if unit else f"{size} bytes"


FORMATS: Registry[Format] = Registry(
    {
        "zarr": Format(".zarr", zarr_row_bytes, 0, "depalm.cache.zarr_shard"),
        # besides its rows a sample has {row}.media.txt
        "webdataset": Format(".tar", tar_row_bytes, 2 * BLOCK, "depalm.cache.tar_shard"),
    }
)
