"""The wheel: it holds what depalm needs outside of its checkout."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from depalm import __version__
from tests.support.clones import ROOT, clone

SETTINGS = {
    "grid": [
        {
            "datasets": ["easy-vqa"],
            "backbones": ["dinov2-S"],
            "llms": ["smollm2-135m"],
            "methods": ["qp_l0", "ours"],
            "fractions": ["100pct"],
            "seeds": [0, 1],
        }
    ],
    "tables": [{"name": "a", "title": "A", "published": "config/published.csv"}],
}
# Of all depalms only the wheel's can be imported; what it depends on comes from this environment.
PLAN = """
import sys
from pathlib import Path
sys.path = [sys.argv[1], *(p for p in sys.path if not Path(p, "depalm").is_dir())]
import depalm
assert Path(depalm.__file__).is_relative_to(sys.argv[1]), depalm.__file__
from depalm.cli import main
main(["plan", "--configfile", "mine.yaml", "--json"])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a fresh clone, without network; torch needs the setuptools that it is built by."""
    folder = tmp_path_factory.mktemp("wheel")
    offline = ("--no-deps", "--no-build-isolation", "--no-index")
    pip("wheel", *offline, "--wheel-dir", str(folder), str(clone(folder / "clone")))
    [path] = folder.glob("*.whl")
    return path


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def run_outside(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    elsewhere = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=elsewhere, capture_output=True, text=True)


def test_it_holds_the_modules_and_all_of_config(wheel: Path) -> None:
    source = wheel.parent / "clone"
    code = [*source.glob("src/depalm/**/*.py"), *source.glob("src/depalm/**/__init__.pyi")]
    code += [*source.glob("src/depalm/**/templates/*"), source / "src/depalm/chat.html"]
    modules = {str(path.relative_to(source / "src")) for path in code}
    config = {
        f"depalm/shipped/{path.relative_to(source)}"
        for path in source.glob("config/**/*")
        if path.is_file()
    }
    assert len(modules) > 80
    assert len(config) > 60
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("depalm/")}
    assert names == {*modules, *config, "depalm/py.typed"}


def test_the_version_is_that_of_the_package(wheel: Path) -> None:
    assert wheel.name.split("-")[1] == __version__
    assert "version" not in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_citation_and_changelog_have_the_version_and_its_day() -> None:
    released = re.findall(r"^## \[(\d\S*)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert released[0] == (__version__, str(citation["date-released"]))
    assert str(citation["version"]) == __version__


def test_it_plans_outside_of_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """Shipped parts are found by name, and a part of one's own beside the configuration."""
    site, folder = tmp_path / "site", tmp_path / "mine"
    pip("install", "--no-deps", "--no-index", "--target", str(site), str(wheel))
    own = folder / "config" / "methods" / "ours.yaml"
    own.parent.mkdir(parents=True)
    method = yaml.safe_load((ROOT / "config/methods/limber_1.yaml").read_text())
    own.write_text(yaml.safe_dump({**method, "label": "Ours"}))
    (folder / "mine.yaml").write_text(yaml.safe_dump(SETTINGS))
    done = run_outside(folder, "-c", PLAN, str(site))
    assert done.returncode == 0, done.stderr
    runs = "results/easy-vqa/runs/100pct/dinov2-S+smollm2-135m"
    expected = [f"{runs}/{method}/seed{seed}" for method in ("qp_l0", "ours") for seed in (0, 1)]
    planned = json.loads(done.stdout)
    assert [str(Path(run["writes"][0]).parent) for run in planned] == expected
    ours = [run["trainable_parameters"] for run in planned if run["method"] == "ours"]
    assert ours == [384 * 576 + 576] * 2  # a Linear from DINOv2-S to SmolLM2
    own.write_text(yaml.safe_dump({**method, "labell": "Ours"}))
    done = run_outside(folder, "-c", PLAN, str(site))
    assert "config/methods/ours.yaml: unknown key 'labell'; did you mean 'label'?" in done.stderr
