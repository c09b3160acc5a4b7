"""Every family with every method, at night: CI has six kinds of LLM that differ most (see
tests/support/tiny.py), and one injection with each of the others (test_families.py).
"""

from pathlib import Path

import pytest

from tests.support.families import REGISTERED, UNLISTED, random_llm
from tests.support.generation import cache_changes_nothing
from tests.support.tiny import METHODS
from tests.support.training import trains_exactly_the_adapter

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.parametrize("method", METHODS),
    pytest.mark.parametrize("name", [*REGISTERED, *UNLISTED]),
]


def test_it_is_trained(name: str, method: str, tmp_path: Path) -> None:
    trains_exactly_the_adapter(random_llm(name, window=24), method, tmp_path)


def test_it_generates_with_cache_and_beams_what_it_does_without(name: str, method: str) -> None:
    cache_changes_nothing(random_llm(name), method)
