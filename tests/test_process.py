"""How a job ends: expected errors in one line, also those of a full disk."""

import errno
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
