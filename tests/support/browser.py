"""A headless browser that looks at a page."""

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium-headless-shell", "chromium", "google-chrome")


def opened(page: Path, width: int = 1400) -> AbstractContextManager[tuple[Any, list[str]]]:
    """A file as a page: see `opened_at`."""
    return opened_at(page.resolve().as_uri(), width)


@contextmanager
def opened_at(address: str, width: int = 1400) -> Iterator[tuple[Any, list[str]]]:
    """The page in a window of this width (playwright's page), and what the console complains of.

    Skips the test if there is no browser.
    """
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no browser: install chromium-headless-shell, or chromium")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    complaints: list[str] = []
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            tab = browser.new_page(viewport={"width": width, "height": 900})
            tab.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
            tab.on("pageerror", lambda error: complaints.append(str(error)))
            tab.on("requestfailed", lambda request: complaints.append(f"no {request.url}"))
            tab.goto(address)
            yield tab, complaints
        finally:
            browser.close()
