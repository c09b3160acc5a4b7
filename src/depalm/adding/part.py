"""A part (config/llms, config/backbones, config/datasets) as it is written for people to read."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from depalm.config import check_schema
from depalm.errors import DepalmError
from depalm.files import atomic_file

PLAIN = re.compile(r"[A-Za-z][\w./-]*(?<!\.)")  # words that YAML reads as they are


class AddError(DepalmError):
    """Something of which no YAML can be made, or a YAML that is there already."""


@dataclass(frozen=True)
class Part:
    """A file of `kind` (llm, backbone, dataset): what it is `about`, and its keys, in order, each
    with a comment that may be empty.
    """

    kind: str
    name: str
    about: Sequence[str]
    entries: Sequence[tuple[str, Any, str]]

    def text(self) -> str:
        """The file's content. Raises ConfigError if it is no such part."""
        lines = [f"# {_line(line)}" for line in self.about] + ["version: 1"]
        for key, value, comment in self.entries:
            line = f"{key}: {_flow(value)}"
            lines.append(f"{line}  # {_line(comment)}" if comment else line)
        text = "\n".join(lines) + "\n"
        check_schema(yaml.safe_load(text), self.kind, self.name)
        return text

    def write(self, folder: Path, force: bool = False) -> Path:
        """Write it below `folder`, in its kind's; the file's path. Raises AddError if there is one
        already, ConfigError.
        """
        path, text = self.check(folder, force), self.text()
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return path

    def check(self, folder: Path, force: bool) -> Path:
        """The path of the file below `folder`. Raises AddError if there is one already and it must
        not be written over.
        """
        path = folder / f"{self.kind}s" / f"{self.name}.yaml"
        if path.exists() and not force:
            raise AddError(f"{path} is there already: give another --name, or --force")
        return path


def _flow(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str):
        plain = PLAIN.fullmatch(value) and yaml.safe_load(value) == value
        return value if plain else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def _line(text: str) -> str:
    """A comment: names of files in it may hold line breaks."""
    return " ".join(text.split())


def part_name(origin: str) -> str:
    """A name for what comes from a folder, a file or an address: its last part, in lower case."""
    address = "://" in origin
    last = origin.partition("@")[0].split("/")[-1] if address else Path(origin).resolve().name
    return re.sub(r"[^a-z0-9._-]+", "_", last.lower()).strip("._-") or "new"
