"""Jobs on one machine never share a GPU: each takes one of those that a folder of devices has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from depalm import gpus

TAKING = """
import os, sys
from pathlib import Path
from depalm.gpus import take_gpus
folder = Path(sys.argv[1])
taken = take_gpus("auto", int(sys.argv[2]), folder, folder)
print(*taken, os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two GPUs, and what else lies there."""
    # set, and deleted: what a test sets is forgotten behind it
    for name in (gpus.VISIBLE, gpus.ORDER):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name in ("nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm", "sda"):
        (tmp_path / name).touch()
    return tmp_path


def job(folder: Path, count: int = 1) -> "subprocess.Popen[str]":
    """A process that takes GPUs, tells which, and keeps them until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", TAKING, str(folder), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def told(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_each_job_has_its_own_gpu_and_a_third_waits(devices: Path) -> None:
    first, second = job(devices), job(devices)
    found = {told(first), told(second)}
    assert found == {"1 0", "10 1"}  # by number, and as CUDA counts them
    third = job(devices)
    with pytest.raises(subprocess.TimeoutExpired):
        third.wait(3)
    first.kill()  # however it ends, its GPU is free
    first.wait()
    assert told(third) in found
    for process in (second, third):
        process.communicate()


def test_a_job_of_two_gpus_has_both_or_none(devices: Path) -> None:
    """One that waits for two does not keep the first from others."""
    single = job(devices)
    assert told(single) == "1 0"
    double = job(devices, 2)
    with pytest.raises(subprocess.TimeoutExpired):
        double.wait(4)
    other = job(devices)
    assert told(other) == "10 1"
    for process in (single, other):
        process.communicate()
    assert told(double) == "1 10 0,1"
    double.communicate()


def test_more_gpus_than_there_are_is_told(devices: Path) -> None:
    with pytest.raises(gpus.GPUError, match="3 GPUs, and this machine has 2"):
        gpus.take_gpus("auto", 3, devices, devices)


def test_a_job_sees_its_gpu_alone_and_a_second_of_its_process_too(devices: Path) -> None:
    assert gpus.take_gpus("cuda", 1, devices, devices) == [1]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert gpus.take_gpus("auto", 1, devices, devices) == []
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_no_gpu_is_taken_for_the_cpu_or_a_number(devices: Path, device: str) -> None:
    assert gpus.take_gpus(device, 1, devices, devices) == []
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_what_a_scheduler_gives_is_obeyed(devices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs of a node may all see a GPU 0, and not the same one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert gpus.take_gpus("auto", 1, devices, devices) == []
    assert not list(devices.glob("*.lock"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not gpus.gpu_here()


def test_gpus_are_counted_that_one_may_open(devices: Path) -> None:
    assert gpus.numbers(devices) == [1, 10]
    (devices / "nvidia1").unlink()
    (devices / "nvidia1").mkdir()  # what cannot be opened
    assert gpus.numbers(devices) == [10]
    assert gpus.take_gpus("auto", 1, devices, devices) == [10]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of another user's")
def test_the_lock_of_another_user_counts_too(devices: Path) -> None:
    lock = devices / "depalm-gpu-1.lock"
    lock.touch()
    os.chown(lock, 12345, 12345)
    lock.chmod(0o644)
    first = job(devices)
    assert told(first) == "1 0"
    second = job(devices)
    assert told(second) == "10 1"
    for process in (first, second):
        process.communicate()
