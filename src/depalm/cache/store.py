"""The cache of backbone tokens: written in shards, opened together for random access.

A shard holds `cls` [N, L, D], CLS of every block, and `tokens/layer_{l}` [N, T, D], all tokens of
block l, CLS first; and as JSON what they are: backbone, transform, dtype, ids, checksums. Values
are float16 or bfloat16, not compressed (they hardly compress). FORMATS says how a shard is laid
out; what is read does not depend on it.
"""

import hashlib
import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from urllib3 import PoolManager

from depalm import __version__
from depalm.cache import tar_shard, zarr_shard
from depalm.cache.http_file import RemoteFile, http_pool, local_path
from depalm.cache.shard import (
    OF_A_SHARD,
    Format,
    RowWriter,
    Shard,
    ShardError,
    array_rows,
    bits,
    read_rows,
)
from depalm.errors import DepalmError

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
# neither zarr nor npy has bfloat16: its bits instead
STORED_DTYPES = {"float16": "float16", "bfloat16": "uint16"}


class CacheError(DepalmError):
    """A cache that is damaged, was made for something else, or lacks what is asked of it."""


class ShardWriter:
    """Appends samples to one shard; made by :func:`write_shard`."""

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
        """Append B samples: their ids and what :meth:`pack` made of their tokens."""
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
    with format_of(path).write(Path(path), rows, STORED_DTYPES[dtype]) as stream:
        writer = ShardWriter(stream, shape, list(layers), dtype)
        yield writer
        writer.finish({**metadata, "shape": dict(shape)})


class TokenCache:
    """The shards of one cache, opened together for random access; paths or URLs.

    Of a tar shard on a web server the index is read at once, the rest by HTTP range requests when
    it is asked for, and nothing of it is stored.

    `expected` is the part of the metadata that matters to the caller, nested as in the shards, for
    instance ``{"backbone": spec, "dtype": "float16"}``. Raises CacheError naming the first field
    that is otherwise in a shard, or that differs between shards; also for a damaged shard. Raises
    DownloadError for one that the network does not give.
    """

    def __init__(self, paths: Sequence[Path | str], expected: Mapping[str, Any]):
        if not paths:
            raise CacheError("a cache needs at least one shard")
        http = http_pool(str(paths[0]))
        self._shards = [_open_shard(path, http) for path in paths]
        first = self._shards[0]
        common = {key: value for key, value in first.metadata.items() if key not in OF_A_SHARD}
        for shard in self._shards:
            _check(shard, json.loads(json.dumps(expected)), "this run asks for")
            _check(shard, common, f"{first.path} has")
        self.metadata: Mapping[str, Any] = common
        self.rejected: Mapping[str, str] = {
            media: reason
            for shard in self._shards
            for media, reason in shard.metadata["rejected"].items()
        }
        self._places = {
            media: (shard, row)
            for shard in self._shards
            for row, media in enumerate(shard.metadata["samples"])
        }
        if len(self._places) < sum(len(shard.metadata["samples"]) for shard in self._shards):
            raise CacheError(f"a sample is in two shards of {[str(path) for path in paths]}")

    @property
    def media(self) -> Collection[str]:
        """The media of which there are tokens."""
        return self._places.keys()

    @property
    def checksums(self) -> list[Mapping[str, str]]:
        """SHA-256 of every array of each shard, as written: what the cache's content is."""
        return [shard.metadata["sha256"] for shard in self._shards]

    def read(self, media_ids: Sequence[str], layers: Sequence[int], cls_only: bool) -> Tensor:
        """Tokens of B samples from L layers -> [B, L, T, D] in the cache's dtype (T = 1: CLS only).

        Raises CacheError for a sample or a layer that the cache lacks, DownloadError for what the
        network does not give.
        """
        shape = self.metadata["shape"]
        held = range(shape["layers"]) if cls_only else self.metadata["layers"]
        missing = [layer for layer in layers if layer not in held]
        if missing:
            raise CacheError(
                f"the cache holds {'CLS' if cls_only else 'all tokens'} of layers {list(held)}, "
                f"not of {missing}; add them to the layers to extract, and extract again"
            )
        tokens = 1 if cls_only else shape["tokens"]
        output = torch.empty(len(media_ids), len(layers), tokens, shape["width"], dtype=torch.int16)
        target, chosen = output.numpy(), list(layers)
        places = {media: self._place(media) for media in media_ids}
        arrays = ["cls"] if cls_only else [f"tokens/layer_{layer}" for layer in chosen]
        rows = dict(zip(places, read_rows(list(places.values()), arrays), strict=True))
        for i, media in enumerate(media_ids):
            if cls_only:
                target[i, :, 0] = rows[media][0][chosen]
            else:
                for j, row in enumerate(rows[media]):
                    target[i, j] = row
        return output.view(DTYPES[self.metadata["dtype"]])

    def verify(self) -> None:
        """Read everything once; raise CacheError naming an array that is not as it was written."""
        for shard in self._shards:
            for name, written in shard.metadata["sha256"].items():
                digest = hashlib.sha256()
                for row in range(len(shard.metadata["samples"])):
                    digest.update(shard.rows(row, [name])[0].data)
                if digest.hexdigest() != written:
                    raise CacheError(
                        f"{shard.path}: {name} is damaged: its SHA-256 is {digest.hexdigest()}, "
                        f"but {written} was written; {_remedy(shard.path)}"
                    )

    def _place(self, media: str) -> tuple[Shard, int]:
        place = self._places.get(media)
        if place is None:
            why = (
                f"it was rejected at extraction ({self.rejected[media]}); leave its samples out"
                if media in self.rejected
                else "extract again from the manifest that has it, and give all shards"
            )
            raise CacheError(f"the cache has no tokens of {media}: {why}")
        return place


def _open_shard(place: Path | str, http: PoolManager) -> Shard:
    known, path = format_of(place), local_path(place)
    try:
        if path is not None:
            return known.open(path)
        if known.stream is None:
            raise CacheError(f"{place}: zarr shards are not streamed; publish webdataset shards")
        return known.stream(RemoteFile(str(place), http))
    except ShardError as error:
        raise CacheError(f"{error}; {_remedy(place)}") from error


def _remedy(place: Path | str) -> str:
    if "://" in str(place):
        return "have it published anew, or extract it here"
    return f"delete {place} and extract it again"


def _check(shard: Shard, expected: Mapping[str, Any], who: str) -> None:
    for key, value in expected.items():
        difference = _difference(shard.metadata.get(key), value, key)
        if difference is not None:
            field, found, wanted = difference
            raise CacheError(
                f"{shard.path} was made with {field}: {found!r}, but {who} {wanted!r}; "
                f"{_remedy(shard.path)}, or set the configuration back"
            )


def _difference(found: Any, expected: Any, field: str) -> tuple[str, Any, Any] | None:
    """The first field, named by its path, in which `found` is not `expected`; both values."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in dict.fromkeys((*expected, *found)):
            below = _difference(found.get(key), expected.get(key), f"{field}.{key}")
            if below is not None:
                return below
        return None
    return None if found == expected else (field, found, expected)


def format_of(path: Path | str) -> Format:
    """The format of the shard `path`, by its suffix. Raises CacheError."""
    for known in FORMATS.values():
        if Path(path).suffix == known.suffix:
            return known
    suffixes = ", ".join(known.suffix for known in FORMATS.values())
    raise CacheError(f"{path} has not the suffix of a shard: {suffixes}")


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


def require_disk(path: Path | str, needed: int) -> None:
    """Raise CacheError unless the disk that `path` will be on has `needed` bytes free."""
    folder = next(parent for parent in Path(path).absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CacheError(
            f"{path} needs {needed / 1e9:.2f} GB, but the disk has {free / 1e9:.2f} GB free; make "
            "room, put results/ on another disk, or extract fewer layers"
        )


FORMATS = {
    "zarr": Format(
        ".zarr", zarr_shard.write_zarr, zarr_shard.open_zarr, zarr_shard.row_bytes, sample_bytes=0
    ),
    "webdataset": Format(
        ".tar",
        tar_shard.write_tar,
        tar_shard.open_tar,
        tar_shard.row_bytes,
        tar_shard.SAMPLE_BYTES,
        tar_shard.stream_tar,
    ),
}
