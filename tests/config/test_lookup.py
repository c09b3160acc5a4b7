from pathlib import Path

import pytest

from depalm.config.load import load_config
from depalm.config.lookup import SHIPPED, find, places
from depalm.config.schema import ConfigError

ROOT = Path(__file__).parents[2]
GRID = {
    "datasets": ["easy-vqa"],
    "backbones": ["dinov2-S"],
    "llms": ["smollm2-135m"],
    "methods": ["blind"],
    "fractions": ["100pct"],
    "seeds": [0],
}


def test_an_earlier_name_then_an_earlier_root_comes_first(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    wanted = [a / "x", b / "x", SHIPPED / "x", a / "y", b / "y", SHIPPED / "y"]
    assert places(["x", "y"], [a, b]) == wanted
    assert places([str(b)], [a, b]) == [b]


def test_in_a_checkout_all_places_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert places(["config"], [Path(), ROOT]) == [Path("config")]
    assert (SHIPPED / "config").samefile(ROOT / "config")


def test_the_first_file_is_found_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a" / "config.yaml").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.yaml").touch()
    assert find("config.yaml", [tmp_path / "a", tmp_path / "b"]) == tmp_path / "b" / "config.yaml"
    assert find("none.yaml", [tmp_path / "a"]) is None


def test_ones_own_part_is_before_the_shipped_one_of_its_name(tmp_path: Path) -> None:
    own = tmp_path / "config" / "methods" / "blind.yaml"
    own.parent.mkdir(parents=True)
    text = (ROOT / "config/methods/blind.yaml").read_text()
    own.write_text(text.replace('label: "Blind"', "label: Ours"))
    config = load_config({"grid": [GRID]}, [tmp_path])
    assert config.parts.method("blind").label == "Ours"
    assert config.parts.method("qp_l0").label == "DePALM QP,L0"


def test_a_published_file_that_is_nowhere_is_named_where_one_puts_it(tmp_path: Path) -> None:
    table = {"name": "a", "title": "A", "published": "config/published.csv"}
    assert load_config({"grid": [GRID], "tables": [table]}, [tmp_path]).runs
    table["published"] = "mine.csv"
    with pytest.raises(ConfigError, match=f"table a: there is no file {tmp_path}/mine.csv"):
        load_config({"grid": [GRID], "tables": [table]}, [tmp_path])
