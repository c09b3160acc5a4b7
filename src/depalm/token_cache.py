"""The cache of backbone tokens: one shard is one zarr v3 group that any zarr library can read.

    shard-{i}-of-{n}.zarr/
        zarr.json           what the tokens are: backbone, transform, dtype, ids, checksums
        cls/                [N, L, D]: CLS of every block
        tokens/layer_{l}/   [N, T, D]: all tokens of block l, CLS first

Values are float16 or bfloat16, not compressed (they hardly compress); a sample is a chunk.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
import zarr
from torch import Tensor

from depalm import __version__
from depalm.files import atomic_directory
from depalm.zarr_shard import INDEX_ENTRY, ITEM, AppendedArray, MappedArray, ShardError

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
ZARR_DTYPES = {"float16": "float16", "bfloat16": "uint16"}  # zarr has no bfloat16: its bits instead
# metadata in which the shards of one cache may differ
OF_A_SHARD = ("depalm_version", "samples", "rejected", "sha256")


class CacheError(RuntimeError):
    """A cache that is damaged, was made for something else, or lacks what is asked of it."""


class ShardWriter:
    """Appends samples to the arrays of one shard; made by :func:`write_shard`."""

    def __init__(
        self,
        directory: Path,
        shape: Mapping[str, int],
        layers: Sequence[int],
        dtype: str,
        files: ExitStack,
    ):
        if dtype not in DTYPES:
            raise CacheError(f"unknown dtype {dtype!r} of a cache; there are: {sorted(DTYPES)}")
        count = shape["layers"]
        if len(set(layers)) < len(layers) or not set(layers) <= set(range(count)):
            raise CacheError(f"layers {list(layers)} must differ, and lie in 0..{count - 1}")
        self.directory, self.layers, self.dtype = directory, list(layers), dtype
        self.samples: list[str] = []
        self.rejected: list[str] = []
        self.arrays = {
            name: AppendedArray(directory / name, row, files)
            for name, row in _rows(shape, layers).items()
        }

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
        self.samples += ids
        for name, array in self.arrays.items():
            array.append(packed[name])

    def finish(self, metadata: Mapping[str, Any]) -> None:
        attributes = {
            **metadata,
            "dtype": self.dtype,
            "layers": self.layers,
            "depalm_version": __version__,
            "samples": self.samples,
            "rejected": self.rejected,
            "sha256": {name: array.finish() for name, array in self.arrays.items()},
        }
        group = zarr.create_group(self.directory, attributes=attributes, zarr_format=3)
        group.create_group("tokens")
        samples = len(self.samples)
        for name, array in self.arrays.items():
            group.create_array(
                name,
                shape=(samples, *array.row),
                dtype=ZARR_DTYPES[self.dtype],
                chunks=(1, *array.row),
                shards=(max(1, samples), *array.row),
                compressors=None,
                fill_value=0,
                dimension_names=("sample", "layer" if name == "cls" else "token", "width"),
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

    `metadata` is JSON: what decides the tokens. `shape` has layers, tokens and width of the
    backbone; `layers` are those of which all tokens are kept. The same samples give the same bytes.
    Raises CacheError for a layer that the backbone lacks or an unknown dtype.
    """
    with atomic_directory(path) as directory, ExitStack() as files:
        writer = ShardWriter(directory, shape, layers, dtype, files)
        yield writer
        writer.finish({**metadata, "shape": dict(shape)})


class TokenCache:
    """The shards of one cache, opened together for random access.

    `expected` is the part of the metadata that matters to the caller, nested as in the shards, for
    instance ``{"backbone": spec, "dtype": "float16"}``. Raises CacheError naming the first field
    that is otherwise in a shard, or that differs between shards; also for a damaged shard.
    """

    def __init__(self, paths: Sequence[Path | str], expected: Mapping[str, Any]):
        if not paths:
            raise CacheError("a cache needs at least one shard")
        self._shards = [_Shard(Path(path)) for path in paths]
        first = self._shards[0]
        common = {key: value for key, value in first.metadata.items() if key not in OF_A_SHARD}
        for shard in self._shards:
            shard.check(json.loads(json.dumps(expected)), "this run asks for")
            shard.check(common, f"{first.path} has")
        self.metadata: Mapping[str, Any] = common
        self.rejected = frozenset(
            media for shard in self._shards for media in shard.metadata["rejected"]
        )
        self._places = {
            media: (shard, row)
            for shard in self._shards
            for row, media in enumerate(shard.metadata["samples"])
        }
        if len(self._places) < sum(len(shard.metadata["samples"]) for shard in self._shards):
            raise CacheError(f"a sample is in two shards of {[str(path) for path in paths]}")

    @property
    def checksums(self) -> list[Mapping[str, str]]:
        """SHA-256 of every array of each shard, as written: what the cache's content is."""
        return [shard.metadata["sha256"] for shard in self._shards]

    def read(self, media_ids: Sequence[str], layers: Sequence[int], cls_only: bool) -> Tensor:
        """Tokens of B samples from L layers -> [B, L, T, D] in the cache's dtype (T = 1: CLS only).

        Raises CacheError for a sample or a layer that the cache lacks.
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
        for i, media in enumerate(media_ids):
            shard, row = self._place(media)
            if cls_only:
                target[i, :, 0] = shard.arrays["cls"].row_at(row)[chosen]
            else:
                for j, layer in enumerate(chosen):
                    target[i, j] = shard.arrays[f"tokens/layer_{layer}"].row_at(row)
        return output.view(DTYPES[self.metadata["dtype"]])

    def verify(self) -> None:
        """Read everything once; raise CacheError naming an array that is not as it was written."""
        for shard in self._shards:
            for name, written in shard.metadata["sha256"].items():
                found = shard.arrays[name].sha256()
                if found != written:
                    raise CacheError(
                        f"{shard.path}: {name} is damaged: its SHA-256 is {found}, but {written} "
                        "was written; delete the shard and extract it again"
                    )

    def _place(self, media: str) -> tuple["_Shard", int]:
        place = self._places.get(media)
        if place is None:
            why = (
                "it was rejected at extraction; leave its samples out"
                if media in self.rejected
                else "extract again from the manifest that has it, and give all shards"
            )
            raise CacheError(f"the cache has no tokens of {media}: {why}")
        return place


class _Shard:
    """One opened shard: its metadata, and its arrays by name."""

    def __init__(self, path: Path):
        self.path = path
        try:
            group = zarr.open_group(path, mode="r", zarr_format=3)
        except (OSError, ValueError) as error:
            raise CacheError(f"{path} is not a zarr group; extract it (again)") from error
        attributes: Any = group.attrs.asdict()
        self.metadata: dict[str, Any] = attributes
        if not self.metadata.keys() >= {"shape", "layers", "dtype", *OF_A_SHARD}:
            raise CacheError(f"{path} is a zarr group, but not a shard of a token cache")
        samples = len(self.metadata["samples"])
        rows = _rows(self.metadata["shape"], self.metadata["layers"])
        try:
            self.arrays = {
                name: MappedArray(path / name, (samples, *row)) for name, row in rows.items()
            }
        except ShardError as error:
            raise CacheError(f"{error}; delete {path} and extract it again") from error

    def check(self, expected: Mapping[str, Any], who: str) -> None:
        for key, value in expected.items():
            difference = _difference(self.metadata.get(key), value, key)
            if difference is not None:
                field, found, wanted = difference
                raise CacheError(
                    f"{self.path} was made with {field}: {found!r}, but {who} {wanted!r}; "
                    "delete it and extract it again, or set the configuration back"
                )


def _rows(shape: Mapping[str, int], layers: Sequence[int]) -> dict[str, tuple[int, int]]:
    """The arrays of a shard: name -> shape of a sample in it."""
    of_layer = {f"tokens/layer_{layer}": (shape["tokens"], shape["width"]) for layer in layers}
    return {"cls": (shape["layers"], shape["width"]), **of_layer}


def _difference(found: Any, expected: Any, field: str) -> tuple[str, Any, Any] | None:
    """The first field, named by its path, in which `found` is not `expected`; both values."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in dict.fromkeys((*expected, *found)):
            below = _difference(found.get(key), expected.get(key), f"{field}.{key}")
            if below is not None:
                return below
        return None
    return None if found == expected else (field, found, expected)


def predicted_bytes(samples: int, shape: Mapping[str, int], layers: Sequence[int]) -> int:
    """Bytes on disk of a shard of `samples`, but for its metadata (some kilobytes and the ids)."""
    rows = _rows(shape, layers).values()
    return samples * sum(prod(row) * ITEM + INDEX_ENTRY for row in rows)


def require_disk(path: Path | str, needed: int) -> None:
    """Raise CacheError unless the disk that `path` will be on has `needed` bytes free."""
    folder = next(parent for parent in Path(path).absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CacheError(
            f"{path} needs {needed / 1e9:.2f} GB, but the disk has {free / 1e9:.2f} GB free; make "
            "room, put results/ on another disk, or extract fewer layers"
        )
