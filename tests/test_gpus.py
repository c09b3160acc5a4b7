"""Jobs on one machine never share a GPU: each takes one of two that are only named here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from depalm import gpus

TAKING = """
import sys
from pathlib import Path
from depalm.gpus import take_gpu
print(take_gpu("auto", ["0", "1"], Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


def job(locks: Path) -> "subprocess.Popen[str]":
    """A process that takes a GPU, tells which, and keeps it until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", TAKING, str(locks)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def told(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_each_job_has_its_own_gpu_and_a_third_waits(tmp_path: Path) -> None:
    first, second = job(tmp_path), job(tmp_path)
    found = {told(first), told(second)}
    assert found == {"0", "1"}
    third = job(tmp_path)
    with pytest.raises(subprocess.TimeoutExpired):
        third.wait(3)
    first.kill()  # however it ends, its GPU is free
    first.wait()
    assert told(third) in found
    for process in (second, third):
        process.communicate()


def test_a_job_sees_its_gpu_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-8f3a")
    assert gpus.visible_gpus() == ["2", "GPU-8f3a"]
    taken = gpus.take_gpu("cuda", locks=tmp_path)
    assert taken == os.environ["CUDA_VISIBLE_DEVICES"] == "2"
    assert gpus.take_gpu("auto", locks=tmp_path) == "2"  # a second job of this process


@pytest.fixture(autouse=True)
def without_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpus.TAKEN, "")


@pytest.mark.parametrize(
    ("device", "names"), [("cpu", ["0"]), ("cuda:1", ["0", "1"]), ("auto", [])]
)
def test_no_gpu_is_taken_where_there_is_no_choice(
    device: str, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus.take_gpu(device, names, tmp_path) is None
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert list(tmp_path.iterdir()) == []


def test_the_gpus_of_a_machine_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in ("nvidia0", "nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm", "sda"):
        (tmp_path / name).touch()
    assert gpus.visible_gpus(tmp_path) == ["0", "2", "10"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus.visible_gpus(tmp_path) == []
    assert not gpus.gpu_here()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of another user's")
def test_the_lock_of_another_user_counts_too(tmp_path: Path) -> None:
    lock = tmp_path / "depalm-gpu-0.lock"
    lock.touch()
    os.chown(lock, 12345, 12345)
    lock.chmod(0o644)
    first = job(tmp_path)
    assert told(first) == "0"
    second = job(tmp_path)
    assert told(second) == "1"
    for process in (first, second):
        process.communicate()
