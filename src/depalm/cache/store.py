"""The token store on disk: the folders of its shards, and who writes which rows.

    results/cache/{backbone}-{identity}/view{v}/{name}.zarr, or .tar

The identity stands for all that decides the tokens of a file: weights, transform, dtype. A shard's
name follows from what it was to hold. Shards are immutable, and appear whole; a row that stands in
two of them is the same row. The lists of keys that jobs are working on lie in .claims/ beside them.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

from depalm.cache.errors import CacheError
from depalm.cache.formats import FORMATS
from depalm.cache.reader import TokenCache
from depalm.errors import DamagedFile
from depalm.files import read_checked, read_json, sha256_json, write_checked, write_json
from depalm.lease import Lease, lease
from depalm.progress import logger

NAME = 100  # characters of a backbone's name that a folder is called by
DIGITS = 12  # of an identity, in a folder's name; the shards hold what it stands for


def view_folder(store: Path, backbone: str, identity: Mapping[str, Any], view: int) -> Path:
    """The folder of the shards of an encoder, by its name, and what decides its tokens.

    Of an encoder that the store has under another name it is that one's.
    """
    end = f"-{sha256_json(identity)[:DIGITS]}"
    known = sorted(path.name for path in store.glob(f"*{end}"))
    return store / (known[0] if known else backbone[:NAME] + end) / f"view{view}"


def shard_files(folder: Path) -> list[Path]:
    """The shards in a folder of the store, in the order of their names."""
    suffixes = {known.suffix for known in FORMATS.values()}
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix in suffixes and p.name[0] != ".")


def open_folder(folder: Path, expected: Mapping[str, Any]) -> TokenCache:
    """All shards of a folder. Raises CacheError."""
    return TokenCache(shard_files(folder), expected)


def shard_name(arrays: Sequence[str], keys: Sequence[str]) -> str:
    """The name of a shard that is to hold the rows of media in some arrays."""
    return sha256_json([list(arrays), list(keys)])[:16]


class Claims:
    """The rows that jobs are extracting into a folder of the store, so that no two do the same.

    A claim is a list of keys, held by a lease for as long as its job lives.
    """

    def __init__(self, folder: Path):
        self.folder = folder / ".claims"

    @contextmanager
    def claimed(
        self, missing: Callable[[], Collection[str]]
    ) -> Iterator[tuple[list[str], list[Path], Lease]]:
        """Claim those of the keys that `missing` gives that nobody else is working on.

        Yields them, the claims of others that hold the rest, and the lease of our own.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        own = self.folder / token_hex(8)
        record = own.with_suffix(".json")
        with lease(own) as held:
            with lease(self.folder / "index"):
                wanted = list(missing())
                others = {path: self._keys(path) for path in self.folder.glob("*.json")}
                taken = set().union(*others.values())
                mine = [key for key in wanted if key not in taken]
                busy = [path for path, keys in others.items() if not keys.isdisjoint(wanted)]
                write_json(record, {"keys": mine})
            try:
                yield mine, busy, held
            finally:
                record.unlink(missing_ok=True)

    def wait(self, claim: Path) -> None:
        """Wait for the job of a claim to end."""
        logger.info("waiting for a job that extracts some of these media")
        with lease(claim.with_suffix("")):  # it is ours when its owner has ended, or died
            claim.unlink(missing_ok=True)

    def _keys(self, path: Path) -> set[str]:
        try:
            return set(read_json(path)["keys"])
        except (OSError, ValueError, LookupError, TypeError):
            return set()


def write_receipt(
    path: Path | str,
    cache: TokenCache,
    place: str,
    media: Mapping[str, str],
    arrays: Sequence[str],
) -> dict[str, str]:
    """Write what a split's rows are: {"store", "arrays", "media", "rows", "sha256", "rejected"}.

    `media` are the keys of the split's media by name, in order; `place` is the folder of `cache` in
    the store. The receipt holds no shard's name, so that it is the same wherever the rows lie.
    Returns the rejected media with the reasons. Raises CacheError if a row is missing.
    """
    if lost := cache.lacking(media, arrays):
        raise CacheError(
            f"{place} lacks {len(lost)} of {len(media)} media, {next(iter(lost))} for one: a shard "
            "was removed since they were extracted. Run `depalm cache verify --repair`, and "
            "Snakemake again"
        )
    rejected = {n: cache.rejected[key].reason for n, key in media.items() if key in cache.rejected}
    receipt = {
        "store": place,
        "arrays": list(arrays),
        "media": len(media),
        "rows": len(media) - len(rejected),
        "sha256": cache.digest(media.values(), arrays),
        "rejected": rejected,
    }
    write_checked(path, receipt)
    return rejected


def read_receipt(path: Path | str) -> dict[str, Any]:
    """Raises CacheError if it is missing, DamagedFile if it is damaged."""
    try:
        receipt = read_checked(path)
    except OSError as error:
        raise CacheError(
            f"{path} cannot be read ({error.strerror}); run Snakemake again"
        ) from error
    if not isinstance(receipt.get("store"), str):
        raise DamagedFile(path, "its store is no text")
    return receipt
