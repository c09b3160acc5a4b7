"""Specs: what is recorded of a file is what stands in it, and their JSON schemas say the same."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from depalm.backbones.registry import LOADERS
from depalm.config.schema import check_schema, json_schema, load_yaml
from depalm.specs.base import in_order

CONFIG = Path(__file__).parents[2] / "config"
KINDS = ("dataset", "backbone", "llm", "method")
FILES = [path for kind in KINDS for path in sorted((CONFIG / f"{kind}s").glob("*.yaml"))]
SETTINGS = sorted(CONFIG.glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_what_was_given_is_recorded_to_the_letter(path: Path) -> None:
    """Also whole numbers where fractions may stand: hashes are made of the text."""
    content = load_yaml(path)
    spec = check_schema(content, path.parent.name.removesuffix("s"), str(path))
    assert json.dumps(spec.given()) == json.dumps(in_order(content))


@pytest.mark.parametrize(
    "path", [*FILES, *SETTINGS], ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_shipped_files_follow_the_json_schemas(path: Path) -> None:
    kind = "config" if path in SETTINGS else path.parent.name.removesuffix("s")
    jsonschema.validate(load_yaml(path), json_schema(kind))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("methods/qp_l0.yaml", {"connector": {"mapper": {"layers": 2.5}}}),
        ("methods/r_avgpool_l0.yaml", {"connector": {"resampler": {"type": "avg", "sise": 2}}}),
        ("methods/qp_l0.yaml", {"inject": {"at": "l1"}}),
        ("backbones/dinov2-S.yaml", {"loader": "tim"}),
    ],
)
def test_json_schemas_refuse_what_the_specs_refuse(name: str, change: dict[str, Any]) -> None:
    content = {**load_yaml(CONFIG / name), **change}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, json_schema(name.partition("s/")[0]))


def test_json_schemas_have_the_names_that_are_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOADERS, "mine", LOADERS["timm"])
    content = {**load_yaml(CONFIG / "backbones/dinov2-S.yaml"), "loader": "mine"}
    jsonschema.validate(content, json_schema("backbone"))
