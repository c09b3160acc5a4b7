"""The command line, as a user runs it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from depalm.datasets.manifest import Sample, write_manifest
from depalm.files import read_checked
from depalm.jobs import JOBS
from depalm.jobs.job import hints_of
from depalm.jobs.manifest import SubsetJob

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "timm", "av", "decord", "pandas", "snakemake")
HELP = f"""
import sys
from depalm.cli import main
for arguments in (["--help"], *([name, "--help"] for name in {list(JOBS)})):
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == 0
print("imported:", [name for name in {HEAVY} if name in sys.modules])
"""


def depalm(
    folder: Path, *arguments: str, before: tuple[str, ...] = (), typed: str = ""
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *before, "-m", "depalm", *arguments]
    return subprocess.run(command, cwd=folder, input=typed, capture_output=True, text=True)


@pytest.fixture
def job(tmp_path: Path) -> SubsetJob:
    """A job whose JSON is job.json in the folder of the test."""
    samples = [Sample(str(i), "media", "what ?", ["a"]) for i in range(8)]
    write_manifest(tmp_path / "manifest.parquet", samples)
    job = SubsetJob(manifest="manifest.parquet", fraction="50pct", seed=1, ids="out/ids.json")
    (tmp_path / "job.json").write_text(job.to_json())
    return job


def test_help_lists_every_command_and_key_without_torch() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = done.stdout.split("usage: ")[1:]
    assert len(pages) == 1 + len(JOBS)
    for name, page in zip(JOBS, pages[1:], strict=True):
        assert f"\n    {name}" in pages[0]
        assert page.startswith(f"depalm {name} ")
        assert all(f"\n  {key} " in page for key in hints_of(JOBS[name]))
    assert "\nimported: []\n" in pages[-1]


def test_a_job_runs_and_logs(job: SubsetJob, tmp_path: Path) -> None:
    done = depalm(tmp_path, "subset", "job.json", "--log", "logs/it.log")
    assert done.returncode == 0, done.stderr
    assert len(read_checked(tmp_path / job.ids)["ids"]) == 4
    assert "4 of 8 samples" in done.stderr
    assert (tmp_path / "logs" / "it.log").read_text() == done.stderr


def test_an_expected_error_is_one_line(job: SubsetJob, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(job.to_json().replace('"seed"', '"sed"'))
    done = depalm(tmp_path, "subset", "job.json", "--log", "it.log")
    assert (done.returncode, done.stdout) == (1, "")
    assert "JobError: job.json: unknown key 'sed'; did you mean 'seed'?" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "it.log").read_text() == done.stderr
    wrong = replace(job, fraction="all")
    (tmp_path / "job.json").write_text(wrong.to_json())
    done = depalm(tmp_path, "subset", "job.json")
    assert done.returncode == 1
    assert "ManifestError: " in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.usefixtures("job")
def test_a_bug_keeps_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where a folder belongs")
    done = depalm(tmp_path, "subset", "job.json", "--log", "it.log")
    assert done.returncode == 1
    for text in (done.stderr, (tmp_path / "it.log").read_text()):
        assert "Traceback" in text
        assert "FileExistsError" in text.splitlines()[-1]


def test_a_job_runs_under_a_debugger(job: SubsetJob, tmp_path: Path) -> None:
    """Which reads standard input; a job of Snakemake's reads none."""
    typed = (
        "import depalm.datasets.subsets\n"
        "b depalm.datasets.subsets.draw_subset\n"
        "c\n"
        "p 'stopped', fraction\n"
        "c\n"
        "q\n"
    )
    done = depalm(tmp_path, "subset", "job.json", before=("-m", "pdb"), typed=typed)
    assert "('stopped', '50pct')" in done.stdout
    assert (tmp_path / job.ids).is_file()


def test_the_plan_names_each_run_with_its_adapter_and_files() -> None:
    done = depalm(ROOT, "plan", "--configfile", "config/demo.yaml", "--json")
    assert done.returncode == 0, done.stderr
    runs = {(run["method"], run["seed"]): run for run in json.loads(done.stdout)}
    assert len(runs) == 5
    run = runs["qp_l0", 1]
    place = "results/easy-vqa/runs/100pct/dinov2-S+smollm2-135m/qp_l0/seed1"
    assert (run["dataset"], run["fraction"]) == ("easy-vqa", "100pct")
    assert (run["backbone"], run["llm"]) == ("dinov2-S", "smollm2-135m")
    assert run["trainable_parameters"] == 1_040_768  # as the demo's table in the README
    assert run["target_layers"] == [0]
    assert "results/easy-vqa/manifest/test.parquet" in run["reads"]
    assert f"{place}/adapter.safetensors" in run["writes"]
    assert f"{place}/test.scores.json" in run["writes"]
    assert not any(
        place.startswith("results/easy-vqa/cache") for place in runs["blind", 0]["reads"]
    )
    table = depalm(ROOT, "plan", "--configfile", "config/demo.yaml").stdout.splitlines()
    assert len(table) == 1 + len(runs)
    assert sum("1,040,768" in line for line in table) == 2


def test_the_plan_tells_a_seed_as_it_is_written(tmp_path: Path) -> None:
    grid = {"datasets": ["easy-vqa"], "backbones": ["dinov2-S"], "llms": ["smollm2-135m"]}
    grid |= {"methods": ["limber_1"], "fractions": ["100pct"], "seeds": [1234567]}
    (tmp_path / "mine.yaml").write_text(json.dumps({"grid": [grid]}))
    table = depalm(tmp_path, "plan", "--configfile", "mine.yaml").stdout.splitlines()
    assert table[1].split()[5:7] == ["1234567", "221,760"]


def test_what_is_wrong_with_a_configuration_is_one_line_and_later_files_win(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("train: {lrr: 1}\n")
    configuration = ("--configfile", "config/demo.yaml", str(tmp_path / "mine.yaml"))
    wrong = depalm(ROOT, "plan", *configuration)
    assert wrong.returncode == 1
    assert "train: unknown key 'lrr'; did you mean 'lr'?" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    missing = depalm(ROOT, "plan", "--configfile", str(tmp_path / "none.yaml"))
    assert f"there is no file {tmp_path}/none.yaml" in missing.stderr


def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "depalm", "schema", "method"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_the_schema_of_a_kind_of_file_is_printed() -> None:
    done = depalm(ROOT, "schema", "method")
    schema = json.loads(done.stdout)
    assert schema["additionalProperties"] is False
    assert {"label", "inject", "connector", "train"} <= schema["properties"].keys()
    assert depalm(ROOT, "schema", "recipe").returncode == 2
