"""The shipped profile on a real Slurm of one node, which keeps no accounts (slurm_site.py)."""

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from depalm.files import sha256_file
from tests.support import slurm_site
from tests.support.clones import clone, snakemake_in

RUN = "results/shapes-vqa/runs/100pct/vit-tiny+llama-tiny/qp_l0/seed0"
SMOKE = ("--configfile", "config/smoke.yaml")
# as shipped, but for how often it asks: soon, then 10 seconds later than before each time
SLURM = ("--profile", "slurm", "--slurm-init-seconds-before-status-checks", "4")

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(slurm_site.why_not()), reason=slurm_site.why_not() or ""),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Slurm that accepts jobs."""
    needed = "pip install -c constraints.txt -e '.[slurm]'"
    pytest.importorskip("snakemake_executor_plugin_slurm", reason=needed)
    with slurm_site.slurm(tmp_path_factory.mktemp("slurm")):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with a token cache and manifests, made without Slurm."""
    folder = clone(tmp_path_factory.mktemp("clone"))
    builder = [sys.executable, "tests/smoke/build.py", "resources/smoke"]
    subprocess.run(builder, cwd=folder, check=True)
    receipt = "results/shapes-vqa/cache/vit-tiny/view0/train/11.json"
    manifest = "results/coco-tiny/manifest/test.parquet"
    subset = "results/shapes-vqa/subsets/100pct/seed0.json"
    outcome = snakemake_in(folder, *SMOKE, "--", receipt, manifest, subset)
    assert outcome.returncode == 0, outcome.stderr
    return folder


def run_on_slurm(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Snakemake with the shipped profile; the test fails if it has not ended after four minutes."""
    try:
        return snakemake_in(folder, *SMOKE, *SLURM, *arguments, timeout=240)
    except subprocess.TimeoutExpired as expired:
        jobs = slurm_site.queue("--states=all", "--format=%i %T %k")
        pytest.fail(
            "\n".join(["Snakemake did not end; jobs:", *jobs, (expired.stderr or b"").decode()])
        )


@pytest.mark.usefixtures("site")
def test_the_shipped_profile_ends_where_there_is_no_accounting(folder: Path) -> None:
    """Jobs that read what others wrote; what takes seconds is not submitted."""
    scores = f"{RUN}/test.scores.json"
    outcome = run_on_slurm(folder, "--", scores)
    assert outcome.returncode == 0, outcome.stderr
    assert (folder / scores).is_file()
    submitted = re.findall(r"Job \d+ has been submitted with SLURM jobid", outcome.stderr)
    done = re.findall(r"^rule (\w+):|^localrule (\w+):", outcome.stderr, re.MULTILINE)
    rules, local = ({name for name in names if name} for names in zip(*done, strict=True))
    assert rules == {"extract", "train", "generate"}
    assert len(submitted) == 3
    assert local >= {"manifest", "receipt", "score"}


@pytest.mark.usefixtures("site")
def test_a_failed_job_is_noticed_and_asked_for_a_gpu_without_tasks(folder: Path) -> None:
    weights = folder / "resources/smoke/clip-tiny/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    receipt = "results/coco-tiny/cache/clip-tiny/view0/test/cls.json"
    arguments = ("--config", "device=cuda", "--retries", "0", "--verbose")
    outcome = run_on_slurm(folder, *arguments, "--", receipt)
    assert outcome.returncode != 0
    assert "Error in rule extract" in outcome.stderr
    assert "SLURM status is: 'FAILED'" in outcome.stderr
    assert not (folder / receipt).exists()
    (call,) = [line for line in outcome.stderr.splitlines() if "--gres=gpu:1" in line]
    assert "--cpus-per-task=1" in call
    assert "--ntasks-per-gpu" not in call


def test_what_a_site_asks_for_is_in_a_file_that_git_does_not_track(folder: Path) -> None:
    """It adds to the shipped profile and takes nothing of it away."""
    ignored = ["git", "check-ignore", "--quiet", "profiles/slurm/site.yaml"]
    assert subprocess.run(ignored, cwd=Path(__file__).parents[2]).returncode == 0
    target = RUN.replace("seed0", "seed2") + "/adapter.safetensors"
    site_file = folder / "profiles/slurm/site.yaml"
    site_file.write_text(
        "default-resources: {slurm_account: mine, slurm_partition: fast}\n"
        "set-resources: {train: {mem_mb: 64000}}\n"
    )
    try:
        outcome = snakemake_in(folder, *SMOKE, *SLURM, "--dry-run", "--", target)
        assert outcome.returncode == 0, outcome.stderr
        resources = [line for line in outcome.stdout.splitlines() if "resources: " in line]
        assert len(resources) == 2
        for setting in ("slurm_account=mine", "slurm_partition=fast"):
            assert all(setting in line for line in resources)
        assert "mem_mb=64000" in resources[-1]
        site_file.write_text("default-resources: [slurm_account=mine]\n")
        outcome = snakemake_in(folder, *SMOKE, *SLURM, "--dry-run", "--", target)
        assert outcome.returncode != 0
        assert "profiles/slurm/site.yaml: this must be `key: value`" in outcome.stderr
    finally:
        site_file.unlink()


STEPS = 4500  # of training: the first job goes on while the second starts
LONGER = 5 * STEPS  # it is ended five times before it is done, on a fast machine too


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Snakemake in the background, killed outright at the end of the block if it still runs."""
    program = [sys.executable, "-m", "snakemake", *arguments]
    with (folder / "controller.log").open("a") as log:
        process = subprocess.Popen(
            program, cwd=folder, stdout=log, stderr=subprocess.STDOUT, text=True
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], object], what: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds} seconds: {what}"
        time.sleep(0.2)


def running() -> list[str]:
    """Ids of the jobs that run, or would if no signal had stopped them."""
    return slurm_site.queue("--states=running,stopped", "--format=%i")


@pytest.mark.nightly
@pytest.mark.usefixtures("site")
def test_a_second_job_of_a_run_harms_nothing(folder: Path, tmp_path: Path) -> None:
    """The controller is killed outright while its job trains; after --unlock the same command
    submits another job of the run, while the first goes on.
    """
    (folder / "long.yaml").write_text(f"train: {{steps: {STEPS}, checkpoint_seconds: 1}}\n")
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(folder, undisturbed, symlinks=True)
    configuration = [*SMOKE, "long.yaml"]
    # no second try, which would hide that the first did harm
    options = [*SLURM, "--retries", "0", "--slurm-keep-successful-logs"]
    command = [*configuration, *options, "--", f"{RUN}/adapter.safetensors"]
    with started(undisturbed, *configuration, "--", command[-1]) as local:
        with started(folder, *command):
            training = folder / RUN / "training"
            wait_until(lambda: any(training.glob("checkpoint*")), "a first checkpoint", 180)
            (first,) = running()
        # it lives, but does not end before the second one is there
        slurm_site.signal(first, "STOP")
        unlocked = snakemake_in(folder, *configuration, "--unlock")
        assert unlocked.returncode == 0, unlocked.stderr
        with started(folder, *command) as controller:
            wait_until(lambda: len(running()) == 2, "two jobs at once", 300)
            assert first in running()
            slurm_site.signal(first, "CONT")
            code = controller.wait(timeout=400)
        wait_until(lambda: not running(), "the end of both jobs", 120)
        assert local.wait(timeout=240) == 0
    logs = [
        folder / "controller.log",
        *(folder / ".snakemake/slurm_logs/rule_train").rglob("*.log"),
    ]
    assert len(logs) == 3
    log = "\n".join(path.read_text() for path in logs)
    assert code == 0, log
    assert "Removing output files of failed job" not in log
    outputs = ("adapter.safetensors", "adapter.json", "train.jsonl", "train.rejects.parquet")
    missing = [name for name in outputs if not (folder / RUN / name).is_file()]
    assert not missing, log
    adapters = [sha256_file(where / RUN / outputs[0]) for where in (folder, undisturbed)]
    assert adapters[0] == adapters[1]
    assert len((folder / RUN / "train.jsonl").read_text().splitlines()) == STEPS


def end_by_time() -> None:
    (job,) = running()
    slurm_site.control("update", f"JobId={job}", "TimeLimit=1")  # Slurm looks once a minute
    wait_until(lambda: job not in running(), "the end of a job whose time is over", 200)


def end_by_cancelling() -> None:
    (job,) = running()
    subprocess.run(["scancel", job], check=True)


def end_by_the_node() -> None:
    slurm_site.control("update", f"NodeName={slurm_site.node()}", "State=DOWN", "Reason=test")
    wait_until(lambda: not running(), "the end of the jobs of a node that is down", 60)
    slurm_site.control("update", f"NodeName={slurm_site.node()}", "State=RESUME")


# what ends a job, from within or without; after a signal to the controller it is started again
ENDINGS: list[Callable[[], None] | signal.Signals] = [
    *(end_by_cancelling, end_by_the_node, end_by_time),
    *(signal.SIGINT, signal.SIGTERM),  # at SIGTERM Snakemake waits for its jobs
]


@pytest.mark.nightly
@pytest.mark.usefixtures("site")
def test_however_a_job_ends_it_goes_on_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    """Cancelled, on a node that goes down, out of time, with its controller asked to end."""
    (folder / "long.yaml").write_text(f"train: {{steps: {LONGER}, checkpoint_seconds: 1}}\n")
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(folder, undisturbed, symlinks=True)
    target = RUN.replace("seed0", "seed5") + "/adapter.safetensors"
    configuration = [*SMOKE, "long.yaml"]
    command = [*configuration, *SLURM, "--retries", "6", "--", target]
    training = folder / target.replace("adapter.safetensors", "training")

    def goes_on() -> Callable[[], bool]:
        """Whether there is a checkpoint that was not there before."""
        before = {path: path.stat().st_mtime_ns for path in training.glob("checkpoint.*")}
        return lambda: any(
            before.get(path) != path.stat().st_mtime_ns for path in training.glob("checkpoint.s*")
        )

    with started(undisturbed, *configuration, "--", target) as local:
        waiting = list(ENDINGS)
        while waiting:
            with started(folder, *command) as controller:
                while waiting:
                    wait_until(goes_on(), f"a checkpoint before {waiting[0]}", 240)
                    ending = waiting.pop(0)
                    if isinstance(ending, signal.Signals):
                        controller.send_signal(ending)
                        controller.wait(timeout=600)
                        wait_until(lambda: not running(), "the end of its jobs", 60)
                        break
                    ending()
        with started(folder, *command) as controller:
            code = controller.wait(timeout=600)
        assert code == 0, (folder / "controller.log").read_text()
        assert local.wait(timeout=600) == 0
    adapters = [sha256_file(where / target) for where in (folder, undisturbed)]
    assert adapters[0] == adapters[1]
    curve = target.replace("adapter.safetensors", "train.jsonl")
    assert len((folder / curve).read_text().splitlines()) == LONGER


@pytest.mark.nightly
@pytest.mark.usefixtures("site")
def test_the_smoke_comparison_takes_at_most_twice_its_local_time(tmp_path: Path) -> None:
    """On an idle machine; the Slurm of the test is that machine too."""
    seconds = {}
    for place, options in (("here", ()), ("slurm", ("--profile", "slurm"))):
        folder = clone(tmp_path / place)
        builder = [sys.executable, "tests/smoke/build.py", "resources/smoke"]
        subprocess.run(builder, cwd=folder, check=True)
        started = time.monotonic()
        outcome = snakemake_in(folder, *SMOKE, *options)
        seconds[place] = time.monotonic() - started
        assert outcome.returncode == 0, outcome.stderr
    print(f"here {seconds['here']:.0f} s, by Slurm {seconds['slurm']:.0f} s")
    assert seconds["slurm"] <= 2 * seconds["here"]
