"""The images build from what git has: every file that they copy is there, and suffices to install
the package; both are made alike.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.project import project_files

ROOT = Path(__file__).parents[1]
DOCKER = (ROOT / "Dockerfile").read_text()
APPTAINER = (ROOT / "depalm.def").read_text()


def copied_by_docker() -> list[str]:
    found = []
    for line in re.findall(r"^COPY (.*)$", DOCKER, re.MULTILINE):
        *sources, target = line.split()
        assert target in ("./", f"./{sources[0]}")
        found += sources
    return found


def copied_by_apptainer() -> list[str]:
    section = APPTAINER.partition("%files\n")[2].partition("\n%")[0]
    pairs = [line.split() for line in section.splitlines() if line.strip()]
    assert all(target == f"/opt/depalm/{source}" for source, target in pairs)
    return [source for source, _ in pairs]


def test_both_images_are_made_alike() -> None:
    assert sorted(copied_by_docker()) == sorted(copied_by_apptainer())
    for pattern in (r"default-jre-headless libgomp1", r"pip install .*?(?= ?\\?\n)", r"python:\S+"):
        first, second = (re.findall(pattern, text) for text in (DOCKER, APPTAINER))
        assert first
        assert first == second


def test_what_they_copy_is_in_the_repository() -> None:
    names = {path.relative_to(ROOT).parts[0] for path in project_files()}
    assert set(copied_by_docker()) <= names
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {"pyproject.toml", project["readme"], *project["license-files"]}
    assert needed <= set(copied_by_docker())


def test_what_they_copy_plans_the_workflow(tmp_path: Path) -> None:
    """A folder with nothing else: the link from the package to the parts still leads somewhere."""
    for name in copied_by_docker():
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, symlinks=True)
        else:
            shutil.copy(source, tmp_path / name)
    assert (tmp_path / "src/depalm/shipped/config/demo.yaml").is_file()
    planned = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "--configfile", "config/demo.yaml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "src")},
        capture_output=True,
        text=True,
    )
    assert planned.returncode == 0, planned.stderr
    assert re.search(r"^train +5$", planned.stdout, re.MULTILINE)


@pytest.mark.skipif(shutil.which("apt-cache") is None, reason="there is no apt here")
def test_the_packages_of_the_system_are_known() -> None:
    listed = re.search(r"--no-install-recommends (.*?) \\", DOCKER)
    assert listed is not None
    for package in listed[1].split():
        known = subprocess.run(["apt-cache", "show", package], capture_output=True, text=True)
        if not known.stdout and not any(Path("/var/lib/apt/lists").glob("*Packages*")):
            pytest.skip("apt has no lists of packages")
        assert f"Package: {package}" in known.stdout
