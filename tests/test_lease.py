"""Leases between real processes in one folder."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from depalm.lease import LeaseLost, Owner, lease

# a process that holds the lease of {folder}/run, says so, and does what it is told
WORKER = """
    import sys, time
    from pathlib import Path
    from depalm.lease import lease

    folder, name = Path(sys.argv[1]), sys.argv[2]
    with lease(folder / "run", heartbeat=0.2, patience=2.0) as held:
        (folder / f"{name}.has-it").touch()
        while not (folder / f"{name}.end").exists():
            with (folder / "diary").open("a") as diary:
                held.check()
                diary.write(f"{name}\\n")
            time.sleep(0.01)
"""
Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    processes: list[subprocess.Popen[str]] = []

    def start_worker(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", textwrap.dedent(WORKER), str(tmp_path), name]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield start_worker
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(path: Path, seconds: float = 20.0) -> float:
    started = time.monotonic()
    while not path.exists():
        assert time.monotonic() - started < seconds, f"{path} does not come"
        time.sleep(0.01)
    return time.monotonic() - started


def leases(folder: Path) -> list[Path]:
    return list(folder.glob(".run.lease-*"))


def test_a_second_job_waits_for_a_living_owner(tmp_path: Path, start: Start) -> None:
    first = start("first")
    wait_for(tmp_path / "first.has-it")
    owner = json.loads(leases(tmp_path)[0].read_text())
    assert (owner["pid"], bool(owner["host"])) == (first.pid, True)
    second = start("second")
    time.sleep(3.0)  # longer than its patience: the first one lives
    assert not (tmp_path / "second.has-it").exists()
    (tmp_path / "first.end").touch()
    (tmp_path / "second.end").touch()
    assert (first.wait(20), second.wait(20)) == (0, 0)
    assert not leases(tmp_path)


def test_a_dead_owner_on_this_machine_is_known_at_once(tmp_path: Path, start: Start) -> None:
    first = start("first")
    wait_for(tmp_path / "first.has-it")
    first.kill()
    first.wait()
    started = time.monotonic()
    with lease(tmp_path / "run"):  # with the patience of two minutes
        assert time.monotonic() - started < 5.0
        assert len(leases(tmp_path)) == 1
    assert not leases(tmp_path)


def test_an_owner_elsewhere_is_dead_when_it_stays_silent(tmp_path: Path) -> None:
    gone = tmp_path / ".run.lease-0123"
    gone.write_text(json.dumps({"host": "n7", "boot": "b", "pid": 1, "started": "1", "job": "42"}))
    started = time.monotonic()
    with lease(tmp_path / "run", heartbeat=0.1, patience=1.0) as held:
        assert 1.0 <= time.monotonic() - started < 10.0
        assert held.waited
        assert not gone.exists()


def test_the_owner_is_named_while_it_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    owner = {"host": "n7", "boot": "b", "pid": 99, "started": "1", "job": "42"}
    (tmp_path / ".run.lease-0123").write_text(json.dumps(owner))
    with caplog.at_level("INFO", "depalm"), lease(tmp_path / "run", heartbeat=0.1, patience=0.5):
        pass
    assert "is being written by Slurm job 42, process 99 on n7" in caplog.text


def test_who_was_suspended_and_lost_it_writes_nothing_more(tmp_path: Path, start: Start) -> None:
    first = start("first")
    wait_for(tmp_path / "first.has-it")
    first.send_signal(signal.SIGSTOP)
    start("second")
    assert wait_for(tmp_path / "second.has-it") >= 1.5  # its patience
    before = (tmp_path / "diary").read_text().count("first")
    first.send_signal(signal.SIGCONT)
    _, errors = first.communicate(timeout=20)
    assert first.returncode != 0
    assert "another took over" in errors
    assert (tmp_path / "diary").read_text().count("first") == before
    assert len(leases(tmp_path)) == 1  # the second one's


def test_of_many_at_once_one_has_it_at_a_time(tmp_path: Path, start: Start) -> None:
    names = [f"job{i}" for i in range(5)]
    for name in names:
        (tmp_path / f"{name}.end").touch()  # each ends as soon as it has had it
    processes = [start(name) for name in names]
    assert [process.wait(60) for process in processes] == [0] * 5
    with lease(tmp_path / "run"):
        start("late")
        start("later")
        time.sleep(2.0)
        assert not (tmp_path / "late.has-it").exists()
        assert not (tmp_path / "later.has-it").exists()


def test_a_lost_lease_is_noticed_within_a_second(tmp_path: Path) -> None:
    with lease(tmp_path / "run") as held:
        held.check()
        leases(tmp_path)[0].unlink()
        time.sleep(1.1)
        with pytest.raises(LeaseLost, match="taken for dead"):
            held.check()


def test_a_process_number_used_again_is_another_process() -> None:
    owner = Owner.this()
    assert owner.pid == os.getpid()
    assert not owner.is_dead
    assert Owner(owner.host, owner.boot, owner.pid, "1", None).is_dead
    assert not Owner("elsewhere", owner.boot, owner.pid, "1", None).is_dead
