"""The workflow from other places than its root: another working directory, another workflow."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tests.support.clones import clone, snakemake_in
from tests.support.project import load_script
from tests.support.workflow import ROOT, SMOKE, build, planned

SNAKEFILE = ROOT / "workflow" / "Snakefile"
TARGET = "results/shapes-vqa/subsets/100pct/seed0.json"  # one manifest, and what is drawn from it
MODULE = re.compile(r'```python title="workflow/Snakefile"\n(.*?)```', re.S)

pytestmark = pytest.mark.dag


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the smoke data."""
    return build(tmp_path_factory.mktemp("smoke"))


@pytest.fixture
def elsewhere(smoke: Path, tmp_path: Path) -> Path:
    """A folder of its own, outside the checkout, with the smoke data; its name is no obstacle."""
    return Path(shutil.copytree(smoke, tmp_path / "else {where}"))


def made(folder: Path, *arguments: str) -> Path:
    """The target of a real run, of which everything lies in `folder`."""
    outcome = snakemake_in(folder, "--cores", "1", *arguments, "--", TARGET)
    assert outcome.returncode == 0, outcome.stderr
    assert {path.name for path in folder.iterdir()} >= {"logs", "resources", "results"}
    return folder / TARGET


@pytest.fixture(scope="module")
def expected(smoke: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, int], str]:
    """What `snakemake` plans in the root of a clone, in whose path is a space, and what it makes.

    Nothing but the working directory says where the workflow is.
    """
    root = clone(tmp_path_factory.mktemp("clone") / "with space")
    shutil.copytree(smoke / "resources", root / "resources")
    arguments = ("--configfile", "config/smoke.yaml")
    jobs = planned(root, *arguments, run=snakemake_in)
    return jobs, made(root, *arguments).read_text()


def test_the_root_runs_the_workflow(expected: tuple[dict[str, int], str]) -> None:
    jobs, ids = expected
    assert jobs["train"] == jobs["generate"] == jobs["score"] == 14
    assert jobs["table"] == 1
    assert len(json.loads(ids)["ids"]) == 48


def test_a_folder_elsewhere_gets_all_that_is_made(
    elsewhere: Path, expected: tuple[dict[str, int], str]
) -> None:
    """With the part files and the profile of the checkout, from which it may be started too."""

    def in_the_root(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
        chosen = ("--snakefile", "workflow/Snakefile", "--configfile", "config/smoke.yaml")
        return snakemake_in(ROOT, *chosen, "--directory", str(folder), *more)

    assert planned(elsewhere, run=in_the_root) == expected[0]
    arguments = ("--snakefile", str(SNAKEFILE), "--configfile", str(SMOKE))
    assert made(elsewhere, *arguments).read_text() == expected[1]
    profile = SNAKEFILE.parent / "profiles" / "default" / "config.yaml"  # found beside a Snakefile
    assert profile.samefile(ROOT / "profiles/default/config.yaml")


def test_configuration_and_parts_of_a_folder_come_before_those_of_the_checkout(
    tmp_path: Path,
) -> None:
    arguments = ("--snakefile", str(SNAKEFILE), "--cores", "1")
    assert planned(tmp_path, *arguments, run=snakemake_in)["train"] == 5 * 2 * 5
    own = tmp_path / "config" / "methods" / "ours.yaml"
    own.parent.mkdir(parents=True)
    shutil.copy(ROOT / "config/methods/qp_l0.yaml", own)
    settings = yaml.safe_load((ROOT / "config/demo.yaml").read_text())
    settings |= {"grid": [{**settings["grid"][0], "methods": ["blind", "ours"]}], "overrides": []}
    (tmp_path / "config" / "config.yaml").write_text(yaml.safe_dump(settings))
    assert planned(tmp_path, *arguments, run=snakemake_in)["train"] == 2 * 2


def test_as_a_module_of_another_workflow(
    elsewhere: Path, expected: tuple[dict[str, int], str]
) -> None:
    """As docs/index.md#elsewhere has it. What the module fills in does not get into its user's
    configuration.
    """
    example = MODULE.search((ROOT / "docs/index.md").read_text())
    assert example is not None
    for folder in ("workflow", "config"):
        (elsewhere / folder).mkdir()
    text = example[1].replace("path/to/depalm", str(ROOT))
    unchanged = 'assert "features" not in config["depalm"]\n'
    (elsewhere / "workflow" / "Snakefile").write_text(text + unchanged)
    settings = {"depalm": yaml.safe_load(SMOKE.read_text())}
    (elsewhere / "config" / "config.yaml").write_text(yaml.safe_dump(settings))
    jobs = {f"depalm_{rule}": count for rule, count in expected[0].items()}
    assert planned(elsewhere, "--cores", "1", run=snakemake_in) == jobs
    assert made(elsewhere).read_text() == expected[1]


def test_braces_in_the_path_of_the_checkout_are_refused(tmp_path: Path) -> None:
    root = clone(tmp_path / "{deep}" / "clone")
    outcome = snakemake_in(root, "results/tables/main.csv")
    assert outcome.returncode != 0
    assert f"braces in the path {root}" in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("checkout", [None, ROOT])
def test_a_conda_environment_gets_the_checkout(tmp_path: Path, checkout: Path | None) -> None:
    """Snakemake runs a copy of the script in the working directory, here outside the checkout."""
    script = shutil.copy(ROOT / "envs/depalm.post-deploy.sh", tmp_path)
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@" >> "$0.typed"\n')
    python.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    if checkout is not None:
        environment["DEPALM_CHECKOUT"] = str(checkout)
    done = subprocess.run(
        ["bash", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    if checkout is None:
        assert done.returncode == 1
        assert (
            done.stderr
            == "there is no checkout of depalm in .: set DEPALM_CHECKOUT to its folder\n"
        )
    else:
        typed = (tmp_path / "python.typed").read_text().splitlines()
        start = f"-m pip install --constraint {ROOT}/constraints.txt"
        assert typed == [f"{start} --editable {ROOT}[clap]", f"{start} --no-deps laion-clap"]


def test_the_conda_environment_has_the_pinned_versions() -> None:
    """If it has not, run `python envs/gen_envs.py`."""
    generated = load_script("envs/gen_envs.py").text()
    assert (ROOT / "envs/depalm.yaml").read_text() == generated
    *_, pip = yaml.safe_load(generated)["dependencies"]
    installed = {Requirement(line).name.lower(): line for line in pip["pip"]}
    assert {"torch", "zarr", "snakemake", "librosa", "jinja2", "decord"} <= installed.keys()
    assert not {"pytest", "ruff", "mkdocs", "laion-clap", "wandb"} & installed.keys()


def test_the_catalog_finds_what_it_asks_for() -> None:
    catalog = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())
    assert catalog["usage"].keys() == {"mandatory-flags", "software-stack-deployment"}
    assert catalog["usage"]["software-stack-deployment"] == {
        **{"conda": True, "apptainer": False, "apptainer+conda": False, "report": True}
    }
    assert (ROOT / "config" / "README.md").is_file()
    assert SNAKEFILE.is_file()
