"""Clones of this repository for tests that run in a folder of their own."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def clone(folder: Path) -> Path:
    """Copy what git tracks to `folder`, as it is here; every file is new, as in a fresh clone."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().strip("\0").split("\0"):
        destination = folder / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, destination, follow_symlinks=False)
    return folder


def snakemake_in(
    folder: Path, *arguments: str, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Snakemake as a user types it in the root of a clone; killed after `timeout` seconds."""
    program = [sys.executable, "-m", "snakemake", *arguments]
    return subprocess.run(program, capture_output=True, text=True, cwd=folder, timeout=timeout)
