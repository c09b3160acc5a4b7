"""Specs: what is recorded of a file is what stands in it."""

import json
from pathlib import Path

import pytest

from depalm.config.schema import check_schema, load_yaml
from depalm.specs.base import in_order

CONFIG = Path(__file__).parents[2] / "config"
KINDS = ("dataset", "backbone", "llm", "method")
FILES = [path for kind in KINDS for path in sorted((CONFIG / f"{kind}s").glob("*.yaml"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_was_given_is_recorded_to_the_letter(path: Path) -> None:
    """Also whole numbers where fractions may stand: hashes are made of the text."""
    content = load_yaml(path)
    spec = check_schema(content, path.parent.name.removesuffix("s"), str(path))
    assert json.dumps(spec.given()) == json.dumps(in_order(content))
