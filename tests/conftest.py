"""Fixtures that several test files share."""

import pytest

from depalm.sources import fetch


@pytest.fixture
def get(tmp_path):
    """Fetch into the same destination and downloads of this test; returns the destination."""

    def fetch_here(uri, expected=None, *more, unpack=False):
        sources = [{"uri": uri, "sha256": expected, "unpack": unpack}, *more]
        fetch(sources, tmp_path / "part", tmp_path / "downloads")
        return tmp_path / "part"

    return fetch_here
