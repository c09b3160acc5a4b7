"""Two jobs that want to write the same output: real processes in one folder."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from depalm.cache.store import open_folder, shard_files
from depalm.files import sha256_file, sha256_tree
from depalm.jobs.work import generate as generation
from depalm.jobs.work import train as training
from tests.support.media_files import write_images
from tests.support.runs import LONG, MEDIA, SETTINGS, extraction, generate, train, write_files
from tests.support.vit import tiny_vit

# the jobs as the rules run them; a test's own functions, by the paths that sys.argv gives
TRAIN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from depalm.process import job
from tests.support.runs import LONG, train
with job(sys.argv[4]):
    train(Path(sys.argv[2]), Path(sys.argv[3]), settings=LONG)
"""
EXTRACT = TRAIN.replace("LONG, train", "extraction").replace(
    "train(Path(sys.argv[2]), Path(sys.argv[3]), settings=LONG)",
    "extraction(Path(sys.argv[2]), Path(sys.argv[3]))",
)
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    processes: list[subprocess.Popen[str]] = []

    def start_job(code: str, files: Path, output: Path, log: str) -> subprocess.Popen[str]:
        root = str(Path(__file__).parents[2])
        arguments = [sys.executable, "-c", code, root, str(files), str(output)]
        # its own log, and its own parent: this process, which stays
        command = [*arguments, str(tmp_path / log)]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield start_job
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def undisturbed(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(files, tmp_path_factory.mktemp("undisturbed"), settings=LONG)


def wait_for(found: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.01)


def is_training(folder: Path) -> Callable[[], bool]:
    return (folder / "training" / "checkpoint.safetensors").is_file


def log_of(folder: Path, name: str) -> str:
    path = folder / name
    return path.read_text() if path.is_file() else ""


def test_a_second_training_waits_and_takes_over_what_is_there(
    files: Path, undisturbed: Path, tmp_path: Path, start: Start
) -> None:
    run = tmp_path / "run"
    first = start(TRAIN, files, run, "first.log")
    wait_for(is_training(run))
    first.send_signal(signal.SIGSTOP)  # it lives, but does not end before the second one is there
    second = start(TRAIN, files, run, "second.log")
    wait_for(lambda: "waiting for it to end" in log_of(tmp_path, "second.log"))
    first.send_signal(signal.SIGCONT)
    assert f"process {first.pid} on" in log_of(tmp_path, "second.log")
    for process in (first, second):
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert "a job with the same inputs has finished this" in log_of(tmp_path, "second.log")
    assert "train:" not in log_of(tmp_path, "second.log")  # it made no step
    for name in ("adapter.safetensors", "train.rejects.parquet"):
        assert sha256_file(run / name) == sha256_file(undisturbed / name)
    assert len((run / "train.jsonl").read_text().splitlines()) == LONG.steps


def test_a_suspended_training_that_lost_its_lease_destroys_nothing(
    files: Path, undisturbed: Path, tmp_path: Path, start: Start
) -> None:
    run = tmp_path / "run"
    first = start(TRAIN, files, run, "first.log")
    wait_for(is_training(run))
    first.send_signal(signal.SIGSTOP)
    for path in run.glob(".training.lease-*"):  # what a job does whose patience has ended
        path.unlink()
    second = start(TRAIN, files, run, "second.log")
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert "resumed at step" in errors
    finished = {p: p.stat().st_mtime_ns for p in run.iterdir() if p.is_file()}
    first.send_signal(signal.SIGCONT)
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 0, errors
    assert "another took over" in log_of(tmp_path, "first.log")
    adapter = run / "adapter.safetensors"
    assert sha256_file(adapter) == sha256_file(undisturbed / "adapter.safetensors")
    assert adapter.stat().st_mtime_ns == finished[adapter]  # it was not written anew
    assert len((run / "train.jsonl").read_text().splitlines()) == LONG.steps


def test_what_snakemake_removed_is_there_again_without_training(
    files: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """It removes a job's outputs before it starts the job, and after the job has failed."""
    run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    assert len(generate(files, run)) == 8
    lost = [path for path in run.iterdir() if path.is_file()]
    assert len(lost) == 7
    before = {path: path.read_bytes() for path in lost}
    for path in lost:
        path.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train", None)  # neither is called
        patch.setattr(generation, "generate", None)
        train(files, run, settings=LONG)
        generate(files, run)
    assert {path: path.read_bytes() for path in lost} == before


def test_other_settings_train_anew(files: Path, tmp_path: Path) -> None:
    run = train(files, tmp_path / "run")
    before = sha256_file(run / "adapter.safetensors")
    train(files, run, settings=SETTINGS.model_copy(update={"lr": 1e-2}))
    assert sha256_file(run / "adapter.safetensors") != before


def test_a_second_extraction_waits_and_takes_the_rows(tmp_path: Path, start: Start) -> None:
    data, store = tmp_path / "data", tmp_path / "store"
    data.mkdir()
    tiny_vit(data / "weights")
    write_images(data, MEDIA)
    (data / MEDIA[3]).write_bytes(b"")
    first = start(EXTRACT, data, store, "first.log")
    wait_for(lambda: list(store.glob("vit-*/view0/.*.tmp/tokens/layer_11/c/0/0/0")))
    first.send_signal(signal.SIGSTOP)
    second = start(EXTRACT, data, store, "second.log")
    wait_for(lambda: "waiting for it to end" in log_of(tmp_path, "second.log"))
    first.send_signal(signal.SIGCONT)
    for process in (first, second):
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert "99 of 100 files went through the backbone" in log_of(tmp_path, "first.log")
    assert "0 of 100 files went through the backbone" in log_of(tmp_path, "second.log")
    assert "1 of 100 rejected (1 x the file is empty)" in log_of(tmp_path, "second.log")
    alone = extraction(data, tmp_path / "alone").folder
    (folder,) = store.glob("vit-*/view0")
    assert [reject.reason for reject in open_folder(folder, {}).rejected.values()] == [
        "the file is empty"
    ]
    assert [sha256_tree(path) for path in shard_files(folder)] == [
        sha256_tree(path) for path in shard_files(alone)
    ]
    assert not list((folder / ".claims").iterdir())


def test_a_failed_job_gives_its_lease_back_and_its_log_ends_with_the_error(
    files: Path, tmp_path: Path, start: Start
) -> None:
    code = TRAIN.replace("settings=LONG", "settings=LONG, llm='missing'")
    process = start(code, files, tmp_path / "run", "failed.log")
    process.communicate(timeout=60)
    assert process.returncode == 1
    last = log_of(tmp_path, "failed.log").splitlines()[-1]
    assert "missing" in last
    assert "Error: " in last
    assert not list((tmp_path / "run").glob(".*lease*"))


def test_a_job_that_is_ended_says_so_and_gives_its_lease_back(
    files: Path, tmp_path: Path, start: Start
) -> None:
    run = tmp_path / "run"
    process = start(TRAIN, files, run, "ended.log")
    wait_for(is_training(run))
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert "ended by SIGTERM" in log_of(tmp_path, "ended.log").splitlines()[-1]
    assert not list(run.glob(".*lease*"))
