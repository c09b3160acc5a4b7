"""Where a model is: a folder here, or a repository of the Hub, of which small files are read."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depalm.adding.part import AddError
from depalm.sources import (
    HUB_URI,
    DownloadError,
    ModelFolderError,
    check_model_folder,
    download_hub_file,
    hub_terms,
    list_hub_model,
)

PICKLED = "pytorch_model*.bin"


@dataclass(frozen=True)
class ModelSource:
    """The folder with a model's configuration and tokenizer, the keys of YAML that say where the
    model is, and its terms, if they are known.
    """

    folder: Path
    entries: list[tuple[str, Any, str]]
    terms: str


@contextmanager
def opened(target: str) -> Iterator[ModelSource]:
    """The source of a model, while its configuration is looked at.

    Raises AddError if there is none, or if depalm could not read it.
    """
    if "://" in target:
        with tempfile.TemporaryDirectory() as temporary:
            source = _of_hub(target, Path(temporary))
            _check(source.folder)
            yield source
    else:
        folder = Path(target)
        if not (folder / "config.json").is_file():
            raise AddError(f"{folder} holds no config.json: not a model's folder")
        _check(folder)
        weights = [*folder.glob("*.safetensors")]
        if not weights:
            raise AddError(f"{folder} holds no .safetensors")
        yield ModelSource(folder, [("path", target, "")], "")


def _check(folder: Path) -> None:
    try:
        check_model_folder(folder)
    except ModelFolderError as error:
        raise AddError(str(error)) from error


def _of_hub(uri: str, folder: Path) -> ModelSource:
    match = HUB_URI.fullmatch(uri)
    if match is None or match[1]:
        raise AddError(f"{uri}: write hf://owner/name, hf://owner/name@revision, or a folder")
    _, repository, revision, wanted = match.groups()
    try:
        listing = list_hub_model(repository, revision, wanted, pickled=PICKLED)
        for name in sorted(listing["files"].keys() - listing["weights"]):
            download_hub_file(
                repository, listing["revision"], name, listing["files"][name], folder, "model"
            )
        terms = hub_terms(repository, listing["revision"])
    except DownloadError as error:
        raise AddError(f"{uri}: {error}") from error
    pickled = all(name.endswith(".bin") for name in listing["weights"])
    address = f"hf://{repository}@{listing['revision']}"
    wanted = wanted or (PICKLED if pickled else None)
    address += f"/{wanted}" if wanted else ""
    entries: list[tuple[str, Any, str]] = [("source", {"uri": address}, "")]
    if pickled:
        entries.append(("convert", "pytorch", "to safetensors, without running its code"))
    return ModelSource(folder, entries, terms)
