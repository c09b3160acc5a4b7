"""Registries: names without imports, and the same whether an entry is an object or a place."""

import sys
from collections.abc import Callable

import pytest

from depalm.registry import Registry


def test_a_place_is_imported_when_it_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "this", raising=False)
    names: Registry[Callable[..., object]] = Registry({"poem": "this:s", "length": len})
    assert list(names) == ["poem", "length"]
    assert "this" not in sys.modules
    assert names["length"] is len
    assert str(names["poem"]).startswith("Gur Mra bs Clguba")


def test_an_entry_is_added_and_removed() -> None:
    names: Registry[Callable[..., object]] = Registry({})
    names["sum"] = sum
    assert names["sum"] is sum
    del names["sum"]
    with pytest.raises(KeyError):
        names["sum"]
