"""A job as Snakemake starts it: its script, its log, and its JSON."""

import subprocess
import sys
from pathlib import Path

from depalm.jobs.extract import ExtractJob

# torch cannot be imported, as in an environment that is broken
BROKEN = """
import sys
from pathlib import Path
from types import SimpleNamespace
from snakemake.iocontainers import InputFiles, OutputFiles, Params, ResourceList
sys.modules["torch"] = None
SHAPE = {"layers": 1, "tokens": 1, "width": 1}
BACKBONE = {"version": 1, "modality": "none", "loader": "disabled", "shape": SHAPE}
HOW = {"data": "d", "weights": "w", "name": "b", "store": "s", "layers": "cls-1"}
PARAMS = eval(sys.argv[2])
snakemake = SimpleNamespace(
    rule="extract",
    log=["logs/a.b.log"],
    threads=1,
    input=InputFiles(fromdict={"manifest": "m", "fetched": ["d"]}),
    output=OutputFiles(fromdict={"report": "r.json"}),
    params=Params(fromdict={"settings": {"backbone": BACKBONE, "shards": 2}, "how": HOW, **PARAMS}),
    resources=ResourceList(fromdict={"workers": 3}),
)
script = Path(sys.argv[1]).read_text()
exec(script, {"snakemake": snakemake})
"""
SCRIPTS = Path(__file__).parents[2] / "workflow" / "scripts"


def start(folder: Path, params: str) -> tuple[subprocess.CompletedProcess[str], str]:
    command = [sys.executable, "-c", BROKEN, str(SCRIPTS / "extract.py"), params]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done, (folder / "logs/a.b.log").read_text()


def test_a_failed_import_ends_in_the_log_and_leaves_the_job(tmp_path: Path) -> None:
    done, log = start(tmp_path, "{'view': 1}")
    assert done.returncode == 1
    assert "import of torch halted" in log.splitlines()[-1]
    job = ExtractJob.from_file(tmp_path / "logs/a.b.json")
    assert (job.view, job.shards, job.workers, job.report) == (1, 2, 3, "r.json")


def test_a_rule_with_a_wrong_parameter_is_one_line_in_the_log(tmp_path: Path) -> None:
    done, log = start(tmp_path, "{'view': 'one'}")
    assert done.returncode == 1
    assert len(log.splitlines()) == 1
    assert "JobError: rule extract: view must be a whole number, but is 'one'" in log


def test_scripts_are_two_lines() -> None:
    for path in SCRIPTS.glob("*.py"):
        docstring, *code = [line for line in path.read_text().splitlines() if line]
        assert docstring.startswith('"""')
        command = path.stem.replace("_", "-")
        assert code == [
            "from depalm.jobs import run_script",
            f'run_script("{command}", snakemake)',
        ]
