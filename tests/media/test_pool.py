"""Decoding in processes: files that hang or crash are set aside, and the work goes on in order."""

import ctypes
import faulthandler
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from depalm.media.pool import FORK, DecodingError, DecodingPool, File
from depalm.rejects import MediaError, Reject


@dataclass(frozen=True)
class Reader:
    """A decoder of files that hold a number, and one for every way that a decoder can fail."""

    def __call__(self, path: Path, seed: int | None = None) -> torch.Tensor:
        content = path.read_text()  # of a FIFO that nobody writes to it waits for ever
        if content == "bad":
            raise MediaError("it is bad")
        if content == "crash":
            faulthandler.disable()  # its report would fill the screen
            ctypes.string_at(0)
        if content == "bug":
            raise KeyError("bug in the decoder")
        if content == "exit":
            os._exit(3)
        return torch.tensor([float(content), seed or 0.0, float(torch.get_num_threads())])


@pytest.fixture
def files(tmp_path: Path) -> list[File]:
    for i in range(10):
        (tmp_path / str(i)).write_text(str(i))
    return [File(str(i), tmp_path / str(i), i if i % 2 else None) for i in range(10)]


def decoded(
    files: Sequence[File], workers: int = 2, seconds: float = 60.0
) -> tuple[list[list[str]], list[float], list[Reject]]:
    """Names by batch, the numbers, and the rejects."""
    with DecodingPool(Reader(), workers, seconds) as pool:
        batches = list(pool.decode([files[i : i + 3] for i in range(0, len(files), 3)]))
    numbers = [row[0].item() for batch in batches for row in batch.inputs]
    assert not any(process.process.is_alive() for process in pool.processes)
    rejects = [reject for batch in batches for reject in batch.rejects]
    return [batch.media for batch in batches], numbers, rejects


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_batches_come_in_order(files: list[File], workers: int) -> None:
    names, numbers, rejects = decoded(files, workers)
    assert names == [["0", "1", "2"], ["3", "4", "5"], ["6", "7", "8"], ["9"]]
    assert numbers == list(range(10))
    assert rejects == []


def test_seeds_reach_the_decoder_and_processes_have_one_thread(files: list[File]) -> None:
    with DecodingPool(Reader(), 1, 60) as pool:
        (batch,) = pool.decode([files])
    assert batch.inputs[:, 1].tolist() == [0, 1, 0, 3, 0, 5, 0, 7, 0, 9]
    assert batch.inputs[:, 2].tolist() == [1] * 10


@pytest.mark.parametrize("workers", [1, 3])
def test_a_stuck_file_times_out_and_the_others_are_decoded(files: list[File], workers: int) -> None:
    for stuck in ("1", "4"):
        files[int(stuck)].path.unlink()
        os.mkfifo(files[int(stuck)].path)
    started = time.monotonic()
    names, numbers, rejects = decoded(files, workers, seconds=2.0)
    assert time.monotonic() - started < 30
    assert names == [["0", "2"], ["3", "5"], ["6", "7", "8"], ["9"]]
    assert numbers == [0, 2, 3, 5, 6, 7, 8, 9]
    assert rejects == [Reject(n, n, "decoding took longer than 2 s", 2) for n in ("1", "4")]


def test_a_file_that_crashes_the_decoder_is_set_aside(files: list[File]) -> None:
    for i, content in ((0, "crash"), (1, "bad"), (9, "crash")):
        files[i].path.write_text(content)
    names, _, rejects = decoded(files)
    assert names == [["2"], ["3", "4", "5"], ["6", "7", "8"], []]
    crashed = "it crashes the decoder (SIGSEGV)"
    assert rejects == [
        Reject("0", "0", crashed),
        Reject("1", "1", "it is bad"),
        Reject("9", "9", crashed),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [("bug", r"(?s)/5: Traceback.*bug in the decoder"), ("exit", "/5 ended with exit code 3")],
)
def test_what_is_not_the_files_fault_ends_the_work(
    files: list[File], content: str, message: str
) -> None:
    files[5].path.write_text(content)
    with pytest.raises(DecodingError, match=message):
        decoded(files)


def test_leaving_early_does_not_wait_for_a_stuck_file(files: list[File]) -> None:
    files[5].path.unlink()
    os.mkfifo(files[5].path)
    started = time.monotonic()
    with DecodingPool(Reader(), 2, 600) as pool:
        next(pool.decode([files[:3], files[3:6], files[6:]]))
    assert time.monotonic() - started < 60
    assert not any(process.process.is_alive() for process in pool.processes)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a stuck process")
def test_a_stuck_process_ends_with_its_killed_parent(files: list[File]) -> None:
    files[0].path.unlink()
    os.mkfifo(files[0].path)
    ours, theirs = FORK.Pipe()

    def work() -> None:
        with DecodingPool(Reader(), 1, 600) as pool:
            theirs.send([process.process.pid for process in pool.processes])
            list(pool.decode([files[:1]]))

    parent = FORK.Process(target=work)
    parent.start()
    (pid,) = ours.recv()
    status = Path(f"/proc/{pid}/stat")
    time.sleep(0.5)  # until it waits for the FIFO
    assert status.exists()
    parent.kill()
    deadline = time.monotonic() + 10
    while status.exists() and " Z " not in status.read_text():  # ended, if perhaps not yet reaped
        assert time.monotonic() < deadline
        time.sleep(0.05)
