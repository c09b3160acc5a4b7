"""Fixtures that several test files share."""

from collections.abc import Iterator

import pytest
import torch

from depalm.sources.fetch import fetch
from depalm.training import loop as train_module
from tests.support.specs import sources
from tests.support.training import Killed


@pytest.fixture
def get(tmp_path):
    """Fetch into the same destination and downloads of this test; returns the destination."""

    def fetch_here(uri, expected=None, *more, unpack=False):
        asked = {"uri": uri, "sha256": expected, "unpack": unpack}
        fetch(sources(asked, *more), tmp_path / "part", tmp_path / "downloads")
        return tmp_path / "part"

    return fetch_here


@pytest.fixture
def killed_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Training stops like a killed process in front of the steps put into the list."""
    steps: list[int] = []
    real = train_module.answer_loss
    calls = iter(range(10**6))

    def loss(*arguments: object) -> torch.Tensor:
        if next(calls) in steps:
            raise Killed
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(train_module, "answer_loss", loss)
    return steps
