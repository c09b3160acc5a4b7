"""What the files of a model ask for, looked at before any library sees their folder."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from depalm.errors import DepalmError
from depalm.files import OutsideError, inside

CODE_KEYS = ("auto_map", "custom_pipelines")  # of transformers: classes in Python files
KERNEL_KEYS = ("attn_implementation", "_attn_implementation", "experts_implementation")
INDEX_SUFFIXES = (".safetensors.index.json", ".bin.index.json")  # of sharded weights
# what decides what a model computes: weights, configuration, tokenizer
MODEL_FILES = (
    *("*.safetensors", "*.json", "*.jinja", "*.model", "*.tiktoken"),
    *("merges.txt", "vocab.txt", "spiece.vocab"),
)


class ModelFolderError(DepalmError):
    """A model's folder that asks for foreign code, or for files outside of it."""


def model_files(folder: Path) -> list[str]:
    """The names of the files in `folder` that decide what the model computes, sorted."""
    found = {path.name for pattern in MODEL_FILES for path in folder.glob(pattern)}
    return sorted(name for name in found if name[0] != "." and (folder / name).is_file())


def check_model_folder(folder: Path) -> None:
    """Look through the JSON files in `folder`. Raises ModelFolderError if one asks to run code that
    its publisher wrote, or if an index names weights outside of `folder`.

    transformers would run that code, or ask on standard input whether it may. It is refused even if
    transformers has a class of its own for the model's type: the publisher's may compute something
    else from the same weights (LLaMA with YaRN does), and nobody would see it in the results.
    """
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue  # the library that needs it cannot read it either
        if wanted := list(_foreign_code(content)):
            raise ModelFolderError(
                f"{path} asks to run {', '.join(dict.fromkeys(wanted))}. No code that comes with a "
                f"model is run: {folder} is refused. Use a model that the library supports by "
                "itself; if it supports this one, use a copy of the folder without this entry"
            )
        if path.name.endswith(INDEX_SUFFIXES):
            _check_index(path, content)


def _foreign_code(content: Any) -> Iterator[str]:
    """What JSON asks to run, in words: tokenization_x.py (class X)."""
    if isinstance(content, list):
        for value in content:
            yield from _foreign_code(value)
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        if key in CODE_KEYS and isinstance(value, dict | list | str) and value:
            yield from map(_in_words, _texts(value))
        elif key in KERNEL_KEYS and any("/" in name for name in _texts(value)):
            yield f"the kernel {value!r}"
        else:
            yield from _foreign_code(value)


def _texts(value: Any) -> Iterator[str]:
    """All texts in JSON; keys are none of them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _in_words(reference: str) -> str:
    """owner/name--tokenization_x.X -> tokenization_x.py (class X) of owner/name."""
    repository, _, place = reference.rpartition("--")
    module, _, name = place.rpartition(".")
    where = f" of {repository}" if repository else ""
    return f"{module.replace('.', '/')}.py (class {name}){where}" if module else repr(reference)


def _check_index(path: Path, content: Any) -> None:
    """The files that an index of sharded weights names lie beside it."""
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict):
        raise ModelFolderError(f"{path} has no weight_map; fetch or convert the model again")
    for name in dict.fromkeys(map(str, names.values())):
        try:
            inside(path.parent, name)
        except OutsideError as error:
            raise ModelFolderError(f"{path} names weights that are refused: {error}") from error
