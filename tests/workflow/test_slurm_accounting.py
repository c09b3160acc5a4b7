"""The shipped profile on a real Slurm of one node that keeps accounts (slurm_site.py)."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import slurm_site
from tests.support.clones import clone, snakemake_in
from tests.support.workflow import RUN

REASON = slurm_site.why_not(accounting=True)
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.nightly,
    pytest.mark.skipif(bool(REASON), reason=REASON or ""),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    needed = "pip install -c constraints.txt -e '.[slurm]'"
    pytest.importorskip("snakemake_executor_plugin_slurm", reason=needed)
    with slurm_site.slurm(tmp_path_factory.mktemp("slurm"), accounting=True):
        yield


@pytest.mark.usefixtures("site")
def test_the_shipped_profile_ends_where_accounts_are_kept(tmp_path: Path) -> None:
    """Where finished jobs are forgotten too soon for squeue, accounting is asked; the account of
    the site file is that of the jobs, and the report of the plugin is written.
    """
    folder = clone(tmp_path / "clone")
    builder = [sys.executable, "tests/smoke/build.py", "resources/smoke"]
    subprocess.run(builder, cwd=folder, check=True)
    (folder / "profiles/slurm/site.yaml").write_text(
        "default-resources: {slurm_account: mine}\nslurm-efficiency-report: true\n"
    )
    scores = f"{RUN}/test.scores.json"
    arguments = ("--configfile", "config/smoke.yaml", "--profile", "slurm", "--", scores)
    outcome = snakemake_in(folder, *arguments, timeout=420)
    assert outcome.returncode == 0, outcome.stderr
    assert (folder / scores).is_file()
    fields = ["--format=Account,State,Comment", "--noheader", "--parsable2", "--allocations"]
    jobs = subprocess.run(["sacct", *fields], capture_output=True, text=True, check=True).stdout
    rows = [line.split("|") for line in jobs.splitlines()]
    assert len(rows) >= 3  # extraction, training, generation
    assert {(account, state) for account, state, _ in rows} == {("mine", "COMPLETED")}
    assert list(folder.rglob("efficiency_report*"))
