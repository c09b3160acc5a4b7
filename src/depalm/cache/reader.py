"""Reading of the token store: its shards, opened together for random access (see
`depalm.cache.writer` for what they hold).
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from depalm.cache.errors import CacheError, DamagedRow, ShardError
from depalm.cache.formats import array_names, format_of
from depalm.cache.http_file import RemoteFile, local_path
from depalm.cache.shard import OF_A_SHARD, Shard, read_rows
from depalm.files import first_difference
from depalm.sources.http import HttpClient

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = ("float16", "bfloat16")
REPAIR = "`depalm cache verify --repair` takes it out of the store; then run Snakemake again"


@dataclass(frozen=True)
class Rejected:
    """Why a medium has no tokens; with the limit in seconds, if its decoding took longer."""

    reason: str
    limit: float | None = None


class TokenCache:
    """Shards of one encoder and view, opened together for random access; paths or URLs.

    A medium is named by its key, the SHA-256 of its file. Not every shard has every array. A tar
    shard on a web server is read by HTTP range requests: its index at once, its rows on demand.
    Nothing of it is stored.

    `expected` is the part of the metadata that matters to the caller, nested as in the shards, for
    instance `{"backbone": spec, "dtype": "float16"}`. Raises CacheError naming the first field in
    which a shard differs from `expected` or from the other shards, and for a damaged shard. Raises
    DownloadError if the server does not deliver one.
    """

    def __init__(self, paths: Iterable[Path | str], expected: Mapping[str, Any]):
        http = HttpClient()
        self.shards = [open_shard(path, http) for path in paths]
        common: dict[str, Any] | None = None
        for shard in self.shards:
            _check(shard, json.loads(json.dumps(expected)), "this run asks for")
            found = {key: value for key, value in shard.metadata.items() if key not in OF_A_SHARD}
            if common is None:
                common = found
            elif found != common:
                _check(shard, common, f"{self.shards[0].path} has")
        self.metadata: Mapping[str, Any] = common or {}
        self._places: dict[str, list[tuple[Shard, int]]] = defaultdict(list)
        refused: dict[str, Rejected] = {}
        for shard in self.shards:
            for row, key in enumerate(shard.metadata["samples"]):
                self._places[key].append((shard, row))
            for key, why in shard.metadata["rejected"].items():
                before = refused.get(key)
                if before is None or (before.limit or 0.0) < (why[1] or 0.0):
                    refused[key] = Rejected(*why)
        self.rejected: Mapping[str, Rejected] = {
            key: why for key, why in refused.items() if key not in self._places
        }

    @property
    def media(self) -> Collection[str]:
        """The keys of the media of which there are tokens."""
        return self._places.keys()

    def missing(self, key: str, arrays: Iterable[str]) -> list[str]:
        """Those of `arrays` that have no row of a medium."""
        held = {name for shard, _ in self._places.get(key, ()) for name in shard.arrays}
        return [name for name in arrays if name not in held]

    def lacking(self, media: Mapping[str, str], arrays: Sequence[str]) -> dict[str, str]:
        """Those of `media` (keys by name) that were not rejected, and lack a row in an array."""
        return {
            name: key
            for name, key in media.items()
            if key not in self.rejected and self.missing(key, arrays)
        }

    def digest(self, keys: Iterable[str], arrays: Sequence[str]) -> str:
        """SHA-256 over the keys and the checksums of their rows in `arrays`, or over the reason of
        those that were rejected: what a run that reads these rows depends on.

        Raises CacheError for a row that is missing.
        """
        digest = hashlib.sha256()
        for key in keys:
            if key in self.rejected:
                digest.update(f"{key} {json.dumps(self.rejected[key].reason)}\n".encode())
                continue
            sums = []
            for name in arrays:
                shard, row = self._place(key, name)
                sums.append(shard.metadata["crc32c"][name][row])
            digest.update(f"{key} {sums}\n".encode())
        return digest.hexdigest()

    def read(
        self,
        keys: Sequence[str],
        layers: Sequence[int],
        cls_only: bool,
        names: Mapping[str, str] | None = None,
    ) -> "Tensor":
        """Tokens of B media from L layers -> [B, L, T, D] in the cache's dtype (T = 1: CLS only).

        `names` are those of the media, for messages. Raises CacheError for a medium or a layer that
        the cache lacks or a row that is damaged, DownloadError for what the network does not give.
        """
        import torch

        if not self.shards:
            raise CacheError("there is no shard of this cache")
        shape, known = self.metadata["shape"], names or {}
        tokens = 1 if cls_only else shape["tokens"]
        # by NumPy, which asks for huge pages: new memory costs as much as what is copied into it
        target = np.empty((len(keys), len(layers), tokens, shape["width"]), np.int16)
        chosen = list(layers)
        # in the order that is asked for
        arrays = [name for layer in chosen for name in array_names([layer], cls_only)]
        arrays = arrays[:1] if cls_only else arrays
        requests: dict[tuple[str, int], tuple[Shard, int, list[str]]] = {}
        for key in dict.fromkeys(keys):
            for name in arrays:
                shard, row = self._place(key, name, known)
                requests.setdefault((key, id(shard)), (shard, row, []))[2].append(name)
        rows = {
            (key, name): (shard, row, values)
            for ((key, _), (shard, row, of)), found in zip(
                requests.items(), read_rows(list(requests.values())), strict=True
            )
            for name, values in zip(of, found, strict=True)
        }
        try:
            for i, key in enumerate(keys):
                for j, name in enumerate(arrays):
                    shard, row, values = rows[key, name]
                    if cls_only:
                        shard.check(row, name, values)
                        target[i, :, 0] = values[chosen]
                    else:
                        target[i, j] = values
                        shard.check(row, name, target[i, j])
        except DamagedRow as error:
            medium = known.get(error.key, error.key)
            raise CacheError(
                f"{error.path}: the row of {medium} in {error.array} is damaged; {REPAIR}"
            ) from error
        return torch.from_numpy(target).view(getattr(torch, self.metadata["dtype"]))

    def _place(
        self, key: str, array: str, names: Mapping[str, str] | None = None
    ) -> tuple[Shard, int]:
        for shard, row in self._places.get(key, ()):
            if array in shard.arrays:
                return shard, row
        medium = (names or {}).get(key, key)
        why = self.rejected.get(key)
        if why is not None:
            raise CacheError(
                f"the cache has no tokens of {medium}: it was rejected at extraction "
                f"({why.reason}); leave its samples out"
            )
        raise CacheError(
            f"the cache has no row of {medium} in {array}: a shard was removed since it was "
            f"extracted. {REPAIR}"
        )


def open_shard(place: Path | str, http: HttpClient | None = None) -> Shard:
    """A shard of any format, on this disk or on a web server. Raises CacheError."""
    layout, path = format_of(place).layout, local_path(place)
    try:
        if path is not None:
            return layout.open(path)
        if layout.stream is None:
            raise CacheError(f"{place}: zarr shards are not streamed; publish webdataset shards")
        return layout.stream(RemoteFile(str(place), http or HttpClient()))
    except ShardError as error:
        raise CacheError(f"{error}; {_remedy(place)}") from error


def _remedy(place: Path | str) -> str:
    return "have it published anew, or extract it here" if "://" in str(place) else REPAIR


def _check(shard: Shard, expected: Mapping[str, Any], who: str) -> None:
    for key, value in expected.items():
        difference = first_difference(shard.metadata.get(key), value, key)
        if difference is not None:
            field, found, wanted = difference
            raise CacheError(
                f"{shard.path} was made with {field}: {found!r}, but {who} {wanted!r}; "
                f"{_remedy(shard.path)}, or set the configuration back"
            )
