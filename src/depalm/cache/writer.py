"""Writing of a shard of the cache.

A shard holds `cls` [N, L, D], the summary token of every block, and `tokens/layer_{l}` [N, T, D],
all tokens of block l, summary token first; and as JSON what they are: backbone, transform, dtype,
ids, checksums. Values are float16 or bfloat16, not compressed (they hardly compress). `FORMATS`
says how a shard is laid out; what is read does not depend on it.
"""

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from depalm import __version__
from depalm.cache.errors import CacheError
from depalm.cache.formats import array_rows, format_of
from depalm.cache.shard import DTYPES, RowWriter, bits

# neither zarr nor npy has bfloat16: its bits instead
STORED_DTYPES = {"float16": "float16", "bfloat16": "uint16"}


class ShardWriter:
    """Appends samples to one shard; made by `write_shard`."""

    def __init__(self, stream: RowWriter, shape: Mapping[str, int], layers: list[int], dtype: str):
        self.stream, self.layers, self.dtype = stream, layers, dtype
        self.rows = array_rows(shape, layers)
        self.digests = {name: hashlib.sha256() for name in self.rows}
        self.samples: list[str] = []
        self.rejected: dict[str, str] = {}  # and why

    def pack(self, tokens: Tensor) -> dict[str, Tensor]:
        """Tokens of all blocks [B, L, T, D] -> what the shard keeps of them, in its dtype, on the
        CPU.

        Raises CacheError if a value is not finite in that dtype.
        """
        kept = {"cls": tokens[:, :, 0]} | {f"tokens/layer_{i}": tokens[:, i] for i in self.layers}
        packed = {name: part.to(DTYPES[self.dtype]).contiguous() for name, part in kept.items()}
        for name, part in packed.items():
            if not part.isfinite().all():
                raise CacheError(
                    f"{name}: a token is not finite in {self.dtype}; set the cache's dtype to "
                    "bfloat16, and if it is not finite there either, check the backbone's weights"
                )
        return {name: part.cpu() for name, part in packed.items()}

    def add(self, ids: Sequence[str], packed: Mapping[str, Tensor]) -> None:
        """Append B samples: their ids and what `pack` made of their tokens."""
        for name, row in self.rows.items():
            if packed[name].shape != (len(ids), *row):
                found = tuple(packed[name].shape)
                raise CacheError(f"{name}: {len(ids)} rows of {row} are due, not {found}")
            self.digests[name].update(bits(packed[name]))
        self.samples += ids
        self.stream.append(ids, packed)

    def finish(self, metadata: Mapping[str, Any]) -> None:
        self.stream.finish(
            {
                **metadata,
                "dtype": self.dtype,
                "stored_dtype": STORED_DTYPES[self.dtype],
                "layers": self.layers,
                "depalm_version": __version__,
                "samples": self.samples,
                "rejected": self.rejected,
                "sha256": {name: digest.hexdigest() for name, digest in self.digests.items()},
            }
        )


@contextmanager
def write_shard(
    path: Path | str,
    metadata: Mapping[str, Any],
    shape: Mapping[str, int],
    layers: Sequence[int],
    dtype: str,
) -> Iterator[ShardWriter]:
    """Yield the writer of the shard `path`, which appears whole if the block succeeds.

    The suffix of `path` says the format. `metadata` is JSON: what decides the tokens. `shape` has
    layers, tokens and width of the backbone; `layers` are those of which all tokens are kept. The
    same samples give the same bytes. Raises CacheError for a layer that the backbone lacks, or an
    unknown dtype or suffix.
    """
    if dtype not in DTYPES:
        raise CacheError(f"unknown dtype {dtype!r} of a cache; there are: {sorted(DTYPES)}")
    count = shape["layers"]
    if len(set(layers)) < len(layers) or not set(layers) <= set(range(count)):
        raise CacheError(f"layers {list(layers)} must differ, and lie in 0..{count - 1}")
    rows = array_rows(shape, layers)
    with format_of(path).layout.write(Path(path), rows, STORED_DTYPES[dtype]) as stream:
        writer = ShardWriter(stream, shape, list(layers), dtype)
        yield writer
        writer.finish({**metadata, "shape": dict(shape)})


def require_disk(path: Path | str, needed: int) -> None:
    """Raise CacheError unless the disk that `path` will be on has `needed` bytes free."""
    folder = next(parent for parent in Path(path).absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CacheError(
            f"{path} needs {needed / 1e9:.2f} GB, but the disk has {free / 1e9:.2f} GB free; make "
            "room, put results/ on another disk, or extract fewer layers"
        )
