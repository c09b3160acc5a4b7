"""Token stores on web servers: folders that `depalm cache publish` made, fetched or streamed.

    index.json                                  {place: what decides its tokens}
    {backbone}-{identity}/view{v}/index.json    the shards, with size, SHA-256, arrays and keys
    {backbone}-{identity}/view{v}/{name}.tar

Shards are webdataset's, which is read in parts; an index is read whole.
"""

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from depalm.cache.errors import CacheError
from depalm.cache.formats import FORMATS
from depalm.cache.maintenance import copy_shard, verify_shard
from depalm.cache.maintenance import places as all_places
from depalm.cache.reader import TokenCache, open_shard
from depalm.cache.shard import OF_A_SHARD
from depalm.cache.store import open_folder, shard_files
from depalm.files import first_difference, inside, read_json, sha256_file, write_json
from depalm.lease import Lease, while_owned
from depalm.progress import Progress, logger
from depalm.sources.download import download_url

INDEX = "index.json"
TAR = FORMATS["webdataset"].suffix


def publish(store: Path, target: Path, places: Sequence[str] | None = None) -> int:
    """Write the shards of some places of a store (by default of all) to the folder `target`, as
    webdataset shards with an index; the number of shards.

    What is there already is not written again, and places published before stay. Raises CacheError.
    """
    there = all_places(store)
    chosen = there if places is None else list(places)
    if unknown := sorted(set(chosen) - set(there)):
        raise CacheError(
            f"{store} has no {', '.join(unknown)}, just {', '.join(there) or 'nothing'}"
        )
    shards = {place: shard_files(store / place) for place in chosen}
    progress = Progress(sum(map(len, shards.values())), "publish", "shard")
    of_all: dict[str, Any] = read_json(target / INDEX) if (target / INDEX).exists() else {}
    for place, files in shards.items():
        rows = []
        for path in files:
            written = target / place / f"{path.stem}{TAR}"
            if not written.exists():
                copy_shard(open_shard(path), written)
            rows.append(_row(written))
            progress.advance()
        if files:
            metadata = open_shard(files[0]).metadata
            of_all[place] = {k: v for k, v in metadata.items() if k not in OF_A_SHARD}
            write_json(target / place / INDEX, {"shards": rows})
    write_json(target / INDEX, of_all)
    return sum(map(len, shards.values()))


def _row(path: Path) -> dict[str, Any]:
    metadata = open_shard(path).metadata
    return {
        "name": path.name,
        "bytes": path.stat().st_size,
        "sha256": sha256_file(path),
        "arrays": metadata["arrays"],
        "samples": metadata["samples"],
        "rejected": metadata["rejected"],
    }


def published_place(url: str, expected: Mapping[str, Any]) -> str:
    """The place in the published store whose tokens were made as `expected`. Raises CacheError,
    saying what differs, and DownloadError.
    """
    index = _read(url, INDEX)
    wanted = json.loads(json.dumps(expected))
    differences = []
    for place, made in index.items():
        difference = first_difference({key: made.get(key) for key in wanted}, wanted, "")
        if difference is None:
            return str(place)
        field, found, asked = difference
        differences.append(f"{place} was made with {field} {found!r}, not {asked!r}")
    raise CacheError(
        f"{url} has no tokens of this backbone: {'; '.join(differences) or 'it is empty'}"
    )


def open_published(
    url: str, place: str, expected: Mapping[str, Any], keys: Iterable[str]
) -> TokenCache:
    """The published shards that have rows of `keys`, to be read over the network."""
    shards = _holding(_shards(url, place), set(keys))
    root = f"{url.rstrip('/')}/{place}"
    return TokenCache([f"{root}/{shard['name']}" for shard in shards], expected)


def fetch_rows(
    url: str,
    place: str,
    expected: Mapping[str, Any],
    media: Mapping[str, str],
    arrays: Sequence[str],
    store: Path,
) -> int:
    """Fetch the shards that have rows of `media` (keys by name) which the store lacks; the number
    of media that were lacking.

    Raises CacheError if the publisher lacks them too, or for a shard that is damaged.
    """
    folder = inside(store, place)
    lacking = open_folder(folder, expected).lacking(media, arrays)
    if lacking:
        shards = _holding(_shards(url, place), set(lacking.values()))
        wanted = [shard for shard in shards if shard["rejected"] or {*shard["arrays"]} & {*arrays}]
        root = f"{url.rstrip('/')}/{place}"
        for shard in wanted:
            _fetch(f"{root}/{shard['name']}", inside(folder, shard["name"]), shard, expected)
        left = open_folder(folder, expected).lacking(media, arrays)
        if left:
            raise CacheError(
                f"{url} has no rows in {', '.join(arrays)} of {len(left)} of {len(media)} media, "
                f"{next(iter(left))} for one: have them published, or extract them here"
            )
    return len(lacking)


def _fetch(url: str, path: Path, shard: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Fetch a shard, unless another job has meanwhile. Raises CacheError."""

    def work(held: Lease) -> None:
        if path.exists():
            return
        fetched = path.parent / ".fetched" / path.name
        fetched.parent.mkdir(exist_ok=True)
        download_url(url, fetched)
        try:
            if sha256_file(fetched) != shard["sha256"]:
                raise CacheError(f"{url} is not what its index says: its SHA-256 is another")
            TokenCache([fetched], expected)
            verify_shard(open_shard(fetched))
        except CacheError:
            fetched.unlink()  # to be fetched anew
            raise
        held.check()
        fetched.replace(path)
        logger.info("fetched %s", path)

    path.parent.mkdir(parents=True, exist_ok=True)
    while_owned(path, work)


def _holding(shards: Iterable[dict[str, Any]], keys: set[str]) -> list[dict[str, Any]]:
    return [s for s in shards if not keys.isdisjoint([*s["samples"], *s["rejected"]])]


def _shards(url: str, place: str) -> list[dict[str, Any]]:
    try:
        shards = _read(url, f"{place}/{INDEX}")["shards"]
        return [dict(shard) for shard in shards]
    except (LookupError, TypeError, ValueError) as error:
        raise CacheError(f"{url}/{place}/{INDEX} is no index of a published store") from error


def _read(url: str, name: str) -> dict[str, Any]:
    """A JSON file of the published store. Raises CacheError and DownloadError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, INDEX)
        download_url(f"{url.rstrip('/')}/{name}", path)
        try:
            content = json.loads(path.read_bytes())
        except ValueError as error:
            raise CacheError(
                f"{url}/{name} is no JSON ({error}): is this what `depalm cache publish` wrote?"
            ) from error
    if not isinstance(content, dict):
        raise CacheError(f"{url}/{name} is no index of a published store")
    return content
