"""Code that a model folder brings along is never run; a folder that cannot do without is refused.

Folders of transformers name such code under `auto_map`: a class for each kind of loader, as
`module.Class` of a file beside it or `owner/name--module.Class` of another repository.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from depalm.progress import logger

CONFIG, TOKENIZER = "config.json", "tokenizer_config.json"


def foreign_code(directory: Path, *files: str) -> str | None:
    """Why `directory` is refused: which code it wants to run, as `files` of it say; None if none.

    A model for which transformers has a class of its own is loaded with that class, whatever else
    its config.json names.
    """
    for name in files:
        content = _read(directory / name)
        wanted = _wanted(content.get("auto_map"))
        if not wanted:
            continue
        if name == CONFIG and content.get("model_type") in CONFIG_MAPPING_NAMES:
            logger.warning(
                "%s names code of its own (%s): it is not run; transformers' own class is used",
                directory / name,
                ", ".join(wanted),
            )
            continue
        return (
            f"{directory / name} asks to run code that came with the model ({', '.join(wanted)}). "
            "That is refused: such code could do anything on this machine. Use a model that "
            "transformers has a class for"
        )
    return None


def refusal(directory: Path, error: Exception) -> str:
    """What `error` of a library says, without advice to run a model's own code."""
    if "trust_remote_code" in str(error):
        return f"{directory} asks to run code that came with the model, which is refused"
    return str(error)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # its loader says what is wrong with it
        return {}
    return content if isinstance(content, dict) else {}


def _wanted(auto_map: Any) -> list[str]:
    """The classes that an `auto_map` names: a mapping or, in older folders, a list."""
    if isinstance(auto_map, str):
        return [auto_map]
    parts = auto_map.values() if isinstance(auto_map, dict) else auto_map or []
    return [name for part in parts for name in _wanted(part)]
