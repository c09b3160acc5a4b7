"""Reading of the cache: its shards, opened together for random access (see
`depalm.cache.writer` for what they hold).
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from depalm.cache.errors import CacheError, ShardError
from depalm.cache.formats import format_of
from depalm.cache.http_file import RemoteFile, local_path
from depalm.cache.shard import DTYPES, OF_A_SHARD, Shard, read_rows
from depalm.sources.http import HttpClient


class TokenCache:
    """The shards of one cache, opened together for random access; paths or URLs.

    A tar shard on a web server is read by HTTP range requests: its index at once, its rows on
    demand. Nothing of it is stored.

    `expected` is the part of the metadata that matters to the caller, nested as in the shards, for
    instance `{"backbone": spec, "dtype": "float16"}`. Raises CacheError naming the first field in
    which a shard differs from `expected` or from the other shards, and for a damaged shard. Raises
    DownloadError if the server does not deliver one.
    """

    def __init__(self, paths: Sequence[Path | str], expected: Mapping[str, Any]):
        if not paths:
            raise CacheError("a cache needs at least one shard")
        http = HttpClient()
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


def _open_shard(place: Path | str, http: HttpClient) -> Shard:
    layout, path = format_of(place).layout, local_path(place)
    try:
        if path is not None:
            return layout.open(path)
        if layout.stream is None:
            raise CacheError(f"{place}: zarr shards are not streamed; publish webdataset shards")
        return layout.stream(RemoteFile(str(place), http))
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
