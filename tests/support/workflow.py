"""Snakemake on the smoke configuration, as a user runs it."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "config" / "smoke.yaml"
VQA = "results/shapes-vqa/runs/100pct/vit-tiny+llama-tiny"
RUN = f"{VQA}/qp_l0/seed0"
Runner = Callable[..., subprocess.CompletedProcess[str]]


def command(folder: Path, *arguments: str) -> list[str]:
    """Snakemake in `folder`, with the smoke configuration unless the arguments name another."""
    chosen = [] if "--configfile" in arguments else ["--configfile", str(SMOKE)]
    program = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    # in front: what follows --configfile is taken for more of them
    return [*program, *chosen, "--directory", str(folder), "--cores", "2", *arguments]


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(folder, *arguments), capture_output=True, text=True, cwd=ROOT)


def planned(folder: Path, *arguments: str, run: Runner = snakemake) -> dict[str, int]:
    """The jobs by rule that Snakemake would run, those that only name targets left out."""
    done = run(folder, "--dry-run", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    _, _, stats = done.stdout.partition("Job stats:")
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", stats, re.MULTILINE))
    return {
        rule: int(count) for rule, count in jobs.items() if rule not in ("all", "default", "total")
    }


def copy_of(done: Path, folder: Path, *names: str) -> Path:
    """A copy of a folder in which something has run, times and Snakemake's records included, but
    without the one large model; of `names` alone, if there are any.
    """
    for name in names or ("results", "resources", ".snakemake", "logs"):
        if (done / name).exists():
            without = shutil.ignore_patterns("clap-random")
            shutil.copytree(done / name, folder / name, symlinks=True, ignore=without)
    return folder


def build(folder: Path) -> Path:
    builder = ROOT / "tests" / "smoke" / "build.py"
    subprocess.run([sys.executable, str(builder), str(folder / "resources/smoke")], check=True)
    return folder


def configuration(folder: Path, name: str = "config", **changes: Any) -> list[str]:
    """Arguments of a smoke run with two runs of one dataset, trained for a moment."""
    settings = yaml.safe_load(SMOKE.read_text())
    settings["grid"] = settings["grid"][:1]
    settings["train"]["steps"] = 12  # an epoch
    for key, value in changes.items():
        merged = isinstance(value, Mapping) and isinstance(settings.get(key), Mapping)
        settings[key] = {**settings[key], **value} if merged else value
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return ["--configfile", str(path)]


def run(folder: Path, *arguments: str) -> str:
    outcome = snakemake(folder, *arguments)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return outcome.stderr
