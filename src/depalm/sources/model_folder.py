"""What the files of a model ask for, looked at before any library sees their folder."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from depalm.errors import DepalmError
from depalm.files import OutsideError, inside, parse_json

CODE_KEYS = ("auto_map", "custom_pipelines")  # of transformers: classes in Python files
KERNEL_KEYS = ("attn_implementation", "_attn_implementation", "experts_implementation")
INDEX_SUFFIXES = (".safetensors.index.json", ".bin.index.json")  # of sharded weights
# what transformers needs of a model, besides weights
READ = {"config.json", "tokenizer_config.json", "tokenizer.json"}
# what decides what a model computes: weights, configuration, tokenizer
MODEL_FILES = (
    *("*.safetensors", "*.json", "*.jinja", "*.model", "*.tiktoken"),
    *("merges.txt", "vocab.txt", "spiece.vocab"),
)


class ModelFolderError(DepalmError):
    """A model's folder that asks for foreign code, for files outside of it, or for what is not done
    with its weights.
    """


def model_files(folder: Path) -> list[str]:
    """The names of the files in `folder` that decide what the model computes, sorted."""
    found = {path.name for pattern in MODEL_FILES for path in folder.glob(pattern)}
    return sorted(name for name in found if name[0] != "." and (folder / name).is_file())


def check_model_folder(folder: Path) -> None:
    """Look through the JSON files in `folder`. Raises ModelFolderError if one asks to run code that
    its publisher wrote, if an index names weights outside of `folder`, if one is damaged, or if the
    weights are quantised or have a LoRA adapter beside them.

    transformers would run that code, or ask on standard input whether it may. It is refused even if
    transformers has a class of its own for the model's type: the publisher's may compute something
    else from the same weights (LLaMA with YaRN does), and nobody would see it in the results.
    """
    for path in sorted(folder.glob("*.json")):
        try:
            content = parse_json(path.read_bytes())
        except (OSError, ValueError) as error:
            if path.name not in READ and not path.name.endswith(INDEX_SUFFIXES):
                continue
            raise ModelFolderError(
                f"{path} is damaged: {error}. Fetch or convert the model again"
            ) from error
        if wanted := list(_foreign_code(content)):
            raise ModelFolderError(
                f"{path} asks to run {', '.join(dict.fromkeys(wanted))}. No code that comes with a "
                f"model is run: {folder} is refused. Use a model that the library supports by "
                "itself; if it supports this one, use a copy of the folder without this entry"
            )
        if path.name.endswith(INDEX_SUFFIXES):
            _check_index(path, content)
        if path.name == "config.json" and isinstance(content, dict):
            _check_weights(path, content)
    if (folder / "adapter_config.json").is_file():
        raise ModelFolderError(
            f"{folder} holds a LoRA adapter (adapter_config.json), which would not be loaded with "
            "the weights: merge it into them (merge_and_unload of peft), or remove its files"
        )


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


def without_code(content: Any) -> Any:
    """JSON without the entries that name a publisher's code."""
    if isinstance(content, list):
        return [without_code(value) for value in content]
    if not isinstance(content, dict):
        return content
    # a vocabulary may have the word, with a number
    return {
        key: without_code(value)
        for key, value in content.items()
        if not (key in CODE_KEYS and isinstance(value, dict | list | str))
    }


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


def _check_weights(path: Path, config: Mapping[str, Any]) -> None:
    """The weights are those of the model that config.json describes, in full precision."""
    quantised = config.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method", "") if isinstance(quantised, dict) else ""
        raise ModelFolderError(
            f"{path} says that the weights are quantised{f' ({method})' if method else ''}: take "
            "the model's original weights in float32, bfloat16 or float16"
        )


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
