"""Provenance: the commit is that of depalm's own checkout, wherever a job is started."""

import subprocess
from pathlib import Path

import pytest

from depalm import __version__
from depalm.provenance import commit


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package in a repository, committed."""
    folder = tmp_path / "checkout" / "src" / "depalm"
    folder.mkdir(parents=True)
    git(tmp_path / "checkout", "init", "--quiet")
    (folder / "__init__.py").write_text("")
    git(tmp_path / "checkout", "add", ".")
    git(tmp_path / "checkout", "commit", "--quiet", "-m", "first")
    return folder


def test_the_commit_is_that_of_the_package_and_says_if_it_was_changed(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "elsewhere"
    here.mkdir()
    git(here, "init", "--quiet")
    monkeypatch.chdir(here)
    head = git(package, "rev-parse", "HEAD")
    assert commit(package) == head
    (package / "__init__.py").write_text("changed = True\n")
    assert commit(package) == f"{head}+dirty"


def test_an_installed_package_tells_its_version(package: Path, tmp_path: Path) -> None:
    """Also in an environment inside of some other repository."""
    installed = package.parents[1] / ".venv" / "depalm"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert commit(installed) == f"version {__version__}"
    assert commit(tmp_path) == f"version {__version__}"
