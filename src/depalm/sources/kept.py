"""Downloads that are kept: each once, for all that want it, and only if it is right."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from depalm.errors import DepalmError
from depalm.files import read_checked, sha256_file, sha256_json, write_checked
from depalm.sources.contents import require_contents
from depalm.sources.http import DownloadError


class SourceError(DepalmError):
    """A source that cannot be fetched as written; the message names it and what to do."""


@contextmanager
def keeping(downloads: Path, key: str) -> Iterator[Path]:
    """The folder that keeps the download `key`; jobs that want the same one wait for each other."""
    folder = downloads / sha256_json(key)[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        yield folder


def forget(downloads: Path, key: str) -> None:
    """Remove what is kept of a download that has turned out to be damaged."""
    with keeping(downloads, key) as folder:
        for path in folder.iterdir():
            if path.is_file() and path.name != ".lock":
                path.unlink()


def once(
    uri: str,
    path: Path,
    sha256: str | None,
    download: Callable[[str, Path], None],
    what: str,
    name: str,
) -> str:
    """SHA-256 of `path`, after `download(what, path)` unless it is already there undamaged; the
    file is published as `name`.

    What was downloaded first is remembered: without a `sha256` later downloads have to be the same.
    """
    first = path.with_name(f"{path.name}.first.json")
    known = sha256 or (read_checked(first)["sha256"] if first.exists() else None)
    published = sha256_file(path) if path.exists() else None
    if published is None or known not in (None, published):
        download(what, path)
        published = sha256_file(path)
        if known is None:
            _recognise(path, name)
    check(uri, published, sha256)
    if known not in (None, published):
        raise SourceError(
            f"{uri}: it has changed: its sha256 is {published}, but was {known} when it was first "
            f"fetched. If the publisher has changed it, delete {first} and run again"
        )
    if not first.exists():
        write_checked(first, {"sha256": published})
    return published


def _recognise(path: Path, name: str) -> None:
    """Keep a downloaded file only if it is what its name says. Raises DownloadError."""
    try:
        require_contents(path, name)
    except DownloadError:
        path.unlink()
        raise


def check(uri: str, published: str, sha256: str | None) -> None:
    if sha256 not in (None, published):
        raise SourceError(
            f"{uri}: wrong checksum: its sha256 is {published}, but {sha256} is configured; run "
            "again in case it was damaged on the way, and change the configured one only when you "
            "know why the publisher changed the file"
        )


def place(kept: Path, target: Path) -> None:
    """Put a kept file at `target`, as a hard link where the file system can: it takes no space."""
    try:
        target.hardlink_to(kept)
    except OSError:
        shutil.copyfile(kept, target)
