"""Jobs in two processes, which talk by gloo as GPUs do by NCCL: what one process gives."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from depalm.files import read_json, sha256_file
from depalm.gpus import GPUError
from depalm.jobs.work.processes import ProcessError
from depalm.specs import TrainSpec
from depalm.specs.train import ValidationSpec
from tests.support.runs import METHOD, generate, train, write_files

# batches of three rows: the parts are not of a size, and some batches leave a process idle
SETTINGS = TrainSpec(
    batch_size=3,
    lr=5e-3,
    steps=8,
    dtype="float32",
    compute="float32",
    checkpoint_seconds=0,
    accumulate=2,
    validation=ValidationSpec(every=3, part=0.3),
)
TOLERANCE = 1e-5  # of a loss: sums in another order


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def alone(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(files, tmp_path_factory.mktemp("alone"), dropping(0.0), SETTINGS)


def dropping(rate: float) -> dict[str, Any]:
    connector = METHOD["connector"]
    mapper = {**connector["mapper"], "dropout": rate}
    return {**METHOD, "connector": {**connector, "mapper": mapper}}


def curve(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return [{key: row[key] for key in row if key != "seconds"} for row in rows]


def same_curve(folder: Path, other: Path) -> None:
    first, second = curve(folder), curve(other)
    assert len(first) == len(second) == SETTINGS.steps
    for row, expected in zip(first, second, strict=True):
        assert row == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)


@pytest.mark.parametrize("shard_llm", [False, True], ids=["whole", "sharded"])
def test_two_processes_train_as_one_does(
    shard_llm: bool, files: Path, alone: Path, tmp_path: Path
) -> None:
    """The losses, gradients and validations of each step, and the adapter."""
    train(files, tmp_path, dropping(0.0), SETTINGS, processes=2, shard_llm=shard_llm)
    same_curve(tmp_path, alone)
    first, second = (load_file(where / "adapter.safetensors") for where in (tmp_path, alone))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-5)
    told, expected = (read_json(where / "adapter.json")["training"] for where in (tmp_path, alone))
    assert told["processes"] == 2
    assert "processes" not in expected
    assert told["samples_seen"] == expected["samples_seen"]
    assert not (tmp_path / "training/job.json").exists()


TRAIN = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.jobs.test_processes import SETTINGS
from tests.support.runs import train
steps = SETTINGS.model_copy(update={"steps": 40, "validation": None})
train(Path(sys.argv[2]), Path(sys.argv[3]), settings=steps, processes=2)
"""


def alive(mark: str) -> list[int]:
    """The processes whose arguments name `mark`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark in path.read_bytes().decode():
                found.append(int(path.parent.name))
        except OSError:  # it ended while we looked
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="processes end with a killed job on Linux")
def test_a_killed_job_takes_its_processes_along_and_goes_on(files: Path, tmp_path: Path) -> None:
    """And ends with the bytes of another one, dropout included."""
    root, whole, killed = Path(__file__).parents[2], tmp_path / "whole", tmp_path / "killed"
    command = [sys.executable, "-c", TRAIN, str(root), str(files)]
    subprocess.run([*command, str(whole)], check=True)
    job = subprocess.Popen([*command, str(killed)], start_new_session=True)
    checkpoint = killed / "training/checkpoint.safetensors"
    while not checkpoint.exists():
        assert job.poll() is None
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.wait()
    deadline = time.monotonic() + 20
    while alive(str(killed)):
        assert time.monotonic() < deadline, "a process outlives its job"
        time.sleep(0.05)
    again = subprocess.run([*command, str(killed)], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    names = ("adapter.safetensors", "train.rejects.parquet")
    assert [sha256_file(killed / name) for name in names] == [
        sha256_file(whole / name) for name in names
    ]
    assert curve(killed) == curve(whole)


def test_a_process_that_is_killed_ends_the_others_and_is_told(files: Path, tmp_path: Path) -> None:
    def kill_one() -> None:
        while len(found := alive(str(tmp_path))) < 2:
            time.sleep(0.02)
        os.kill(max(found), signal.SIGKILL)

    thread = threading.Thread(target=kill_one)
    thread.start()
    with pytest.raises(ProcessError, match=r"process \d ended by signal 9; was there too little"):
        train(files, tmp_path, settings=SETTINGS, processes=2)
    thread.join()
    assert not alive(str(tmp_path))


def test_an_error_of_a_process_is_that_of_the_job(files: Path, tmp_path: Path) -> None:
    huge = SETTINGS.model_copy(update={"lr": 1e38, "clip_norm": 1e38})
    with pytest.raises(ProcessError, match=r"process \d: TrainingError: step \d+: .*lower lr"):
        train(files, tmp_path, settings=huge, processes=2)


@pytest.mark.parametrize("shard_llm", [False, True], ids=["whole", "sharded"])
def test_two_processes_generate_what_one_does(shard_llm: bool, files: Path, tmp_path: Path) -> None:
    train(files, tmp_path)
    expected = generate(files, tmp_path)
    summary = read_json(tmp_path / "generate.json")
    for path in (tmp_path / "generation").rglob("*"):
        if path.is_file():
            path.unlink()
    assert generate(files, tmp_path, processes=2, shard_llm=shard_llm) == expected
    told = read_json(tmp_path / "generate.json")
    for key in ("samples", "texts_sha256", "decoding", "rejects"):
        assert told[key] == summary[key]
    left = {path.name for path in (tmp_path / "generation/texts").iterdir()}
    assert left == {"finished.json", "rejects.parquet", "summary.json", "texts.jsonl"}


def test_a_gpu_for_each_process_is_asked_for(files: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has GPUs")
    with pytest.raises(GPUError, match="2 processes are to have a GPU each, but the job has 0"):
        train(files, tmp_path, settings=SETTINGS, device="cuda", processes=2)
