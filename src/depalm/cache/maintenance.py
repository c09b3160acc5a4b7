"""The upkeep of the token store: what is in it, whether it is whole, and what nobody reads."""

import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from depalm.cache.errors import CacheError, DamagedRow
from depalm.cache.formats import format_of
from depalm.cache.reader import open_shard
from depalm.cache.shard import Shard
from depalm.cache.store import read_receipt, shard_files
from depalm.files import sha256_json
from depalm.lease import Lease, lease
from depalm.progress import Progress, logger

Rows = Mapping[str, set[str]]  # of a place in the store: keys by array


@dataclass(frozen=True)
class Entry:
    """An array of a place in the store: how many media and bytes, and the datasets whose receipts
    read it.
    """

    place: str
    array: str
    media: int
    bytes: int
    readers: list[str]


def places(store: Path) -> list[str]:
    """The places of a store that hold shards: {backbone}-{identity}/view{v}."""
    folders = sorted(store.glob("*/view*"))
    return [folder.relative_to(store).as_posix() for folder in folders if shard_files(folder)]


def listing(store: Path, receipts: Sequence[Path]) -> Iterator[Entry]:
    """What is in the store, array by array. Raises CacheError for a damaged shard."""
    readers: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for path in receipts:
        receipt = read_receipt(path)
        for array in receipt["arrays"]:
            # results/{dataset}/cache/{backbone}/view{v}/{split}/{layers}.json
            readers[receipt["store"], array].add(f"{path.parts[-6]}/{path.parts[-2]}")
    for place in places(store):
        keys: defaultdict[str, set[str]] = defaultdict(set)
        sizes: defaultdict[str, int] = defaultdict(int)
        for path in shard_files(store / place):
            shard = open_shard(path)
            for name, array in shard.arrays.items():
                keys[name].update(shard.metadata["samples"])
                sizes[name] += len(shard.metadata["samples"]) * 2 * int(np.prod(array.row))
        for name in sorted(keys, key=lambda name: (len(name), name)):
            of = sorted(readers[place, name])
            yield Entry(place, name, len(keys[name]), sizes[name], of)


def verify_shard(shard: Shard) -> list[DamagedRow]:
    """Read every row; those that are damaged."""
    damaged = []
    for index in range(len(shard.metadata["samples"])):
        for name in shard.arrays:
            try:
                shard.verified(index, [name])
            except DamagedRow as error:
                damaged.append(error)
    return damaged


def verify(store: Path, repair: bool = False) -> list[str]:
    """Read all of the store; what is wrong, in words.

    With `repair` damaged rows, and shards that cannot be opened, are taken out of it, one shard at
    a time, while nobody else writes there.
    """
    files = [path for place in places(store) for path in shard_files(store / place)]
    progress, wrong = Progress(len(files), "verify", "shard"), []
    for path in files:
        try:
            shard = open_shard(path)
            damaged = verify_shard(shard)
        except CacheError as error:
            wrong.append(str(error.__cause__ or error))
            if repair:
                remove(path)
        else:
            wrong += [str(row) for row in damaged]
            if repair and damaged:
                lost = {row.key for row in damaged}
                replace_shard(shard, [k for k in shard.metadata["samples"] if k not in lost])
        progress.advance()
    return wrong


def held(folder: Path) -> tuple[Rows, set[str]]:
    """The keys of a place by array, and those that were rejected; of shards that open."""
    rows: defaultdict[str, set[str]] = defaultdict(set)
    rejected: set[str] = set()
    for path in shard_files(folder):
        try:
            shard = open_shard(path)
        except CacheError:
            continue
        rejected.update(shard.metadata["rejected"])
        for name in shard.arrays:
            rows[name].update(shard.metadata["samples"])
    return rows, rejected


def copy_shard(
    shard: Shard,
    target: Path,
    keys: Sequence[str] | None = None,
    arrays: Sequence[str] | None = None,
) -> None:
    """Write the rows of `keys` in `arrays` (by default all) of a shard to `target`, in the format
    that its suffix says. Raises DamagedRow.
    """
    metadata = shard.metadata
    names = [name for name in shard.arrays if arrays is None or name in arrays]
    rows = {name: shard.arrays[name].row for name in names}
    chosen = set(metadata["samples"] if keys is None else keys)
    with format_of(target).layout.write(target, rows, metadata["stored_dtype"]) as stream:
        checksums: dict[str, list[int]] = {name: [] for name in names}
        samples = []
        for index, key in enumerate(metadata["samples"]):
            if key not in chosen:
                continue
            values = shard.verified(index, names)
            whole = [np.ascontiguousarray(value[None]) for value in values]
            stream.append([key], dict(zip(names, whole, strict=True)))
            samples.append(key)
            for name in names:
                checksums[name].append(metadata["crc32c"][name][index])
        told = {"arrays": names, "samples": samples, "crc32c": checksums}
        stream.finish({**metadata, **told})


def replace_shard(
    shard: Shard, keys: Sequence[str], arrays: Sequence[str] | None = None
) -> Path | None:
    """Put another shard, with just these rows, in the place of one; None if nothing is left."""
    path = Path(shard.path)
    names = [name for name in shard.arrays if arrays is None or name in arrays]
    if not names or not (keys or shard.metadata["rejected"]):
        remove(path)
        return None
    name = sha256_json([names, list(keys), "of", path.stem])[:16]
    target = path.with_name(f"{name}{path.suffix}")
    copy_shard(shard, target, keys, names)
    remove(path)
    return target


def remove(path: Path) -> None:
    """Take a shard out of the store at once, and then remove it."""
    gone = path.with_name(f".{path.name}.removed.tmp")
    path.rename(gone)
    if gone.is_dir():
        shutil.rmtree(gone)
    else:
        gone.unlink()
    logger.info("removed %s", path)


def unread(
    store: Path, read: Mapping[str, Rows]
) -> Iterator[tuple[Shard, list[str], list[str], int]]:
    """The shards with rows that nobody reads: each with the keys and arrays that stay, and the
    bytes that go; `read` has the rows that somebody reads, by place.
    """
    for place in places(store):
        of = read.get(place, {})
        for path in shard_files(store / place):
            shard = open_shard(path)
            samples = shard.metadata["samples"]
            arrays = [n for n in shard.arrays if not of.get(n, set()).isdisjoint(samples)]
            wanted = set[str]().union(*(of[name] for name in arrays))
            keys = [key for key in samples if key in wanted]
            size = {n: 2 * int(np.prod(shard.arrays[n].row)) for n in shard.arrays}
            kept = len(keys) * sum(size[name] for name in arrays)
            gone = len(samples) * sum(size.values()) - kept
            if gone:
                yield shard, keys, arrays, gone


def while_nobody_claims(folder: Path) -> AbstractContextManager[Lease]:
    """The lease of a place in the store, for whoever removes from it: no job begins meanwhile."""
    return lease(folder / ".claims" / "index")
