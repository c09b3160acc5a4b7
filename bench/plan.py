"""How long Snakemake takes to plan the shipped configurations, against Snakemake itself.

The baseline is `snakemake -n` on a Snakefile with one rule, in the same run: it starts Python and
Snakemake, and reads nothing of depalm. Each figure is the median of some runs of a fresh process;
every job on a cluster pays the reading of its configuration once more.

Usage: python bench/plan.py [runs]
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from setting import seconds

ROOT = Path(__file__).parents[1]
EMPTY = "rule all:\n    output: 'nothing'\n    shell: 'touch {output}'\n"


def main(runs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Snakefile").write_text(EMPTY)
        make_local_folders(Path(folder))
        alone = seconds(lambda: snakemake("--snakefile", "Snakefile", folder=Path(folder)), runs)
        print(f"Snakemake alone: {alone:.2f} s")
        for name in ("demo", "paper"):
            plan(ROOT / f"config/{name}.yaml", Path(folder), runs, alone)


def plan(path: Path, folder: Path, runs: int, alone: float) -> None:
    snakefile = ("--snakefile", str(ROOT / "Snakefile"))
    planned = seconds(lambda: snakemake(*snakefile, "--configfile", str(path), folder=folder), runs)
    read = seconds(lambda: reading(path, folder), runs)
    print(
        f"snakemake -n --configfile config/{path.name}: {planned:.2f} s, "
        f"{planned / alone:.1f}x Snakemake alone; of it, reading and checking the "
        f"configuration: {read:.2f} s (with Python's start)"
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


def reading(path: Path, folder: Path) -> None:
    code = f"from depalm.config.load import load_files; load_files([{str(path)!r}], [])"
    run([sys.executable, "-c", code], folder)


def run(command: list[str], folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run(command, check=True, capture_output=True, cwd=folder, env=environment)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
