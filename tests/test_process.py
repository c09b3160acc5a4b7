"""How a job ends, errors of a full disk too, and the memory that it keeps."""

import errno
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from depalm.process import full_disk, multiplies, reported


@pytest.mark.parametrize(
    ("error", "place"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/b.json"), " for a/b.json"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), ""),
        (OSError(errno.EACCES, "Permission denied", "a"), None),
        (ValueError("28"), None),
    ],
)
def test_a_full_disk_is_known_whoever_finds_it(error: Exception, place: str | None) -> None:
    assert full_disk(error) == place


def forbid(log: Path) -> None:
    with reported(log):
        raise PermissionError(errno.EACCES, "Permission denied", "results/x")


def test_what_this_user_may_not_do_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        forbid(tmp_path / "log")
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert "Permission denied: 'results/x': this user may not; ask its owner" in line


def fill(log: Path) -> None:
    with reported(log):
        raise OSError(errno.ENOSPC, "No space left on device", "results/x")


def test_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        fill(tmp_path / "log")
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert "no space left on the disk for results/x: nothing half is left of it; make room" in line


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("flags\t\t: fpu avx2 fma", {"float32"}),
        ("flags\t\t: avx512f avx512_bf16", {"float32", "bfloat16"}),
        ("flags\t\t: amx_bf16 avx512_fp16", {"float32", "bfloat16", "float16"}),
        ("Features\t: fp asimdhp bf16", {"float32", "bfloat16", "float16"}),
        ("processor\t: 0", {"float32", "bfloat16", "float16"}),
    ],
)
def test_what_a_processor_multiplies(tmp_path: Path, flags: str, found: set[str]) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text(f"model name\t: bf16 in name only\n{flags}\n{flags}\n")
    dtypes = {"float32", "bfloat16", "float16"}
    assert {dtype for dtype in dtypes if multiplies(dtype, told)} == found
    assert all(multiplies(dtype, tmp_path / "absent") for dtype in dtypes)


FAULTS = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from depalm.process import keep_memory

def faults(of):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(of):
        np.ones(2**27, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep":
    keep_memory()
with ThreadPoolExecutor(1) as thread:
    for run in (faults, lambda of: thread.submit(faults, of).result()):
        run(2)
        print(run(5))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library is not glibc")
def test_what_is_freed_is_used_again_by_every_thread() -> None:
    """Five arrays of 128 MiB: no new page is taken for them; else 64 or 32,768 for each."""
    counts = {}
    for how in ("keep", "leave"):
        command = [sys.executable, "-c", FAULTS, how]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        counts[how] = [int(line) for line in told.split()]
    assert max(counts["keep"]) < 20
    assert min(counts["leave"]) >= 5 * 64
