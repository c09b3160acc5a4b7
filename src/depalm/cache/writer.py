"""Writing of a shard of the token store.

A shard holds some of the arrays `cls` [N, L, D], the summary token of every block, and
`tokens/layer_{l}` [N, T, D], all tokens of block l, summary token first; and as JSON what they are:
backbone, transform, dtype, the SHA-256 of each medium's file, the CRC-32C of each row, and the
media that could not be decoded, with the reasons. Values are float16 or bfloat16, not compressed
(they hardly compress). `FORMATS` says how a shard is laid out; what is read does not depend on it.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from depalm import __version__
from depalm.cache.errors import CacheError
from depalm.cache.formats import CLS, array_rows, format_of, in_units
from depalm.cache.reader import DTYPES
from depalm.cache.shard import Bits, RowWriter, checksum
from depalm.files import FULL

# neither zarr nor npy has bfloat16: its bits instead
STORED_DTYPES = {"float16": "float16", "bfloat16": "uint16"}


class ShardWriter:
    """Appends samples to one shard; made by `write_shard`."""

    def __init__(self, stream: RowWriter, shape: Mapping[str, int], arrays: list[str], dtype: str):
        self.stream, self.arrays, self.dtype = stream, arrays, dtype
        self.rows = array_rows(shape, arrays)
        self.checksums: dict[str, list[int]] = {name: [] for name in arrays}
        self.samples: list[str] = []
        self.rejected: dict[str, tuple[str, float | None]] = {}  # why; its limit if it took longer

    def pack(self, layers: Sequence[Tensor]) -> dict[str, Bits]:
        """Tokens of all L blocks, each [B, T, D], -> the bits of what the shard keeps of them, in
        its dtype.

        Raises CacheError if a value is not finite in that dtype.
        """
        packed = {}
        kept = getattr(torch, self.dtype)
        for name in self.arrays:
            if name == CLS:
                part = torch.stack([tokens[:, 0] for tokens in layers], dim=1)  # [B, L, D]
            else:
                part = layers[int(name.removeprefix("tokens/layer_"))]
            part = part.to(kept).contiguous()
            if not part.isfinite().all():
                raise CacheError(
                    f"{name}: a token is not finite in {self.dtype}; set the cache's dtype to "
                    "bfloat16, and if it is not finite there either, check the backbone's weights"
                )
            packed[name] = part.cpu().view(torch.int16).numpy()
        return packed

    def add(self, keys: Sequence[str], packed: Mapping[str, Bits]) -> None:
        """Append B samples: the keys of their media, and what `pack` made of their tokens."""
        for name, row in self.rows.items():
            if packed[name].shape != (len(keys), *row):
                found = packed[name].shape
                raise CacheError(f"{name}: {len(keys)} rows of {row} are due, not {found}")
            self.checksums[name] += [checksum(values) for values in packed[name]]
        self.samples += keys
        self.stream.append(keys, packed)

    def finish(self, metadata: Mapping[str, Any]) -> None:
        self.stream.finish(
            {
                **metadata,
                "dtype": self.dtype,
                "stored_dtype": STORED_DTYPES[self.dtype],
                "arrays": self.arrays,
                "depalm_version": __version__,
                "samples": self.samples,
                "rejected": {key: list(why) for key, why in self.rejected.items()},
                "crc32c": self.checksums,
            }
        )


@contextmanager
def write_shard(
    path: Path | str,
    metadata: Mapping[str, Any],
    shape: Mapping[str, int],
    arrays: Sequence[str],
    dtype: str,
) -> Iterator[ShardWriter]:
    """Yield the writer of the shard `path`, which appears whole if the block succeeds.

    The suffix of `path` says the format. `metadata` is JSON: what decides the tokens. `shape` has
    layers, tokens and width of the backbone; of its `arrays` (see `array_rows`) these are written.
    The same samples give the same bytes. Raises CacheError for a layer that the backbone lacks, an
    unknown dtype or suffix, or a disk that is full.
    """
    if dtype not in DTYPES:
        raise CacheError(f"unknown dtype {dtype!r} of a cache; there are: {', '.join(DTYPES)}")
    rows = array_rows(shape, arrays)
    with (
        disk_full(path),
        format_of(path).layout.write(Path(path), rows, STORED_DTYPES[dtype]) as stream,
    ):
        writer = ShardWriter(stream, shape, list(arrays), dtype)
        yield writer
        writer.finish({**metadata, "shape": dict(shape)})


@contextmanager
def disk_full(path: Path | str) -> Iterator[None]:
    """Raise CacheError naming `path` if the disk fills up meanwhile."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise CacheError(
            f"{path}: no space left on the disk; what was written of it is removed. Make room, or "
            "put results/ on another disk, and run again: what is in the store is not made again"
        ) from error


def require_disk(path: Path | str, needed: int) -> None:
    """Raise CacheError unless the disk that `path` will be on has `needed` bytes free."""
    folder = next(parent for parent in Path(path).absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CacheError(
            f"{path} takes {in_units(needed)}: {in_units(needed - free)} more than the "
            f"{in_units(free)} that are free on its disk; make room, put results/ on another disk, "
            "or extract fewer layers"
        )
