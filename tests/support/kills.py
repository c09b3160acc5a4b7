"""Kills at random moments of extraction, training and generation, by SIGKILL.

    python -m tests.support.kills 100 [SEED]

Each start is a process that has imported everything already (a fork), so that it is killed at work.
A job goes on from what a killed one has left until it ends; then its outputs are compared with
those of a job that nobody disturbed, and it starts anew. A line is printed for every start.
"""

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import torch

from depalm.cache.store import open_folder
from depalm.files import sha256_file
from tests.support.media_files import write_images
from tests.support.runs import MEDIA, SETTINGS, extraction, generate, train, write_files
from tests.support.vit import tiny_vit

STEPS = SETTINGS.model_copy(update={"steps": 60, "checkpoint_seconds": 0.02})
ARRAYS = ["tokens/layer_11"]
SLACK = 0.9  # of the time that an undisturbed start takes


@dataclass(frozen=True)
class Victim:
    """A job: `run` works in a folder, `outputs` tells what it has made there."""

    run: Callable[[Path], object]
    outputs: Callable[[Path], Mapping[str, str]]


def victims(files: Path, data: Path) -> dict[str, Victim]:
    """The three long jobs, on tiny models."""

    def trained(folder: Path) -> None:
        train(files, folder, settings=STEPS)

    def generated(folder: Path) -> None:
        if not (folder / "adapter.safetensors").exists():
            train(files, folder)
        generate(files, folder)

    def rows(folder: Path) -> dict[str, str]:
        (place,) = folder.glob("vit-*/view0")
        cache = open_folder(place, {})
        left = [path.name for path in place.rglob("*.tmp")]
        return {"rows": cache.digest(sorted(cache.media), ARRAYS), "left": str(left)}

    def named(*names: str) -> Callable[[Path], Mapping[str, str]]:
        return lambda folder: {name: sha256_file(folder / name) for name in names}

    return {
        "extraction": Victim(lambda folder: extraction(data, folder), rows),
        "training": Victim(trained, named("adapter.safetensors", "train.rejects.parquet")),
        "generation": Victim(generated, named("texts.jsonl", "generate.rejects.parquet")),
    }


def start(victim: Victim, folder: Path, seconds: float | None) -> tuple[str, float]:
    """Start the job in a process, and kill it after so many seconds; how it ended, and when."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)  # with the processes that it starts
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
        code = 1
        try:
            victim.run(folder)
            code = 0
        finally:
            os._exit(code)
    started = time.monotonic()
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        taken = time.monotonic() - started
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return ("whole" if code == 0 else f"failed with {code}"), taken
        if seconds is not None and taken >= seconds:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "killed", taken
        time.sleep(0.001)


def kill_at_random(root: Path, kills: int, seed: int = 0) -> dict[str, int]:
    """Kill jobs so many times; the kills of each. Raises AssertionError if what they leave is not
    what an undisturbed one makes.
    """
    torch.set_num_threads(1)
    files, data = write_files(root / "files"), root / "data"
    data.mkdir()
    tiny_vit(data / "weights")
    write_images(data, MEDIA)
    (data / MEDIA[3]).write_bytes(b"")
    jobs = victims(files, data)
    expected, lasting = {}, {}
    for name, victim in jobs.items():
        how, lasting[name] = start(victim, root / "whole" / name, None)
        assert how == "whole", name
        expected[name] = victim.outputs(root / "whole" / name)
        print(f"{name}: undisturbed in {lasting[name]:.2f} s")
    draw, counts = random.Random(seed), dict.fromkeys(jobs, 0)
    runs = dict.fromkeys(jobs, 0)

    def go_on(name: str, seconds: float | None) -> None:
        folder = root / "killed" / name / str(runs[name])
        how, taken = start(jobs[name], folder, seconds)
        told = f"{name} {runs[name]}: {how} after {taken:.3f} s"
        if how == "killed":
            counts[name] += 1
        else:
            assert how == "whole", told
            assert jobs[name].outputs(folder) == expected[name], name
            told += ", with the bytes of an undisturbed one"
            runs[name] += 1
        print(told)

    names = cycle(jobs)
    while sum(counts.values()) < kills:
        name = next(names)
        go_on(name, draw.uniform(0, SLACK * lasting[name]))
    for name in jobs:
        go_on(name, None)
    return counts


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        print("kills:", kill_at_random(Path(folder), *arguments))
