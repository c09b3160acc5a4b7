"""How long Snakemake takes to plan the shipped configurations, against Snakemake itself.

The baseline is `snakemake -n` on a Snakefile with one rule, in the same run: it starts Python and
Snakemake, and reads nothing of depalm. Every job on a cluster pays the reading of its configuration
once more.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml
from setting import ROOT, Row, compared

EMPTY = "rule all:\n    output: 'nothing'\n    shell: 'touch {output}'\n"


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Snakefile").write_text(EMPTY)
        make_local_folders(Path(folder))
        for name in ("demo", "paper"):
            yield plan(ROOT / f"config/{name}.yaml", Path(folder))


def plan(path: Path, folder: Path) -> Row:
    ours = ("--snakefile", str(ROOT / "Snakefile"), "--configfile", str(path))
    return compared(
        f"snakemake -n --configfile config/{path.name}",
        lambda: snakemake(*ours, folder=folder),
        lambda: snakemake("--snakefile", "Snakefile", folder=folder),
        "Snakemake with one rule",
        runs=3,
    )


def make_local_folders(folder: Path) -> None:
    """Make what users have to bring along: folders that the shipped parts name."""
    for path in (ROOT / "config").glob("*/*.yaml"):
        part = yaml.safe_load(path.read_text(encoding="utf-8"))
        for key in ("path", "root", "media_root"):
            if key in part:
                (folder / part[key]).mkdir(parents=True, exist_ok=True)


def snakemake(*arguments: str, folder: Path) -> None:
    """Plan in `folder`, where nothing is made yet."""
    command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "all", *arguments]
    run([*command, "--directory", str(folder)], folder)


def run(command: list[str], folder: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(result.stderr)
