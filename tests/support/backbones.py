"""The specs of config/backbones, a film in memory, and checkpoints as they are fetched."""

from pathlib import Path
from typing import Any

import torch

from depalm.config.schema import load_yaml
from depalm.files import write_json
from depalm.sources.convert import convert

CONFIG = Path(__file__).parents[2] / "config" / "backbones"
FILM = torch.linspace(-9, 9, 2 * 4 * 3 * 32 * 32).sin().view(2, 4, 3, 32, 32)
SOURCE = {"uri": "file:///x", "sha256": "0" * 64, "revision": None}


def spec_of(name: str) -> dict[str, Any]:
    return load_yaml(CONFIG / f"{name}.yaml")


def converted(tmp_path: Path, content: Any, name: str) -> Path:
    """`content` as a fetched checkpoint, converted."""
    download = tmp_path / "download"
    download.mkdir()
    torch.save(content, download / name)
    write_json(download / "source.json", SOURCE)
    convert(download, tmp_path / "model", "pytorch")
    return tmp_path / "model"
