"""How fast the work is done: measured by earlier jobs, or else assumed."""

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from statistics import median

import numpy as np

from depalm.process import multiplies

START = 6.0  # seconds, of jobs that nobody has measured
# operations a second of an H100, as measured (docs/benchmarks.md#gpu-speed), and the least seconds
# a layer takes: in a training step, for a generated token
GPU = {"float32": 42e12, "tf32": 160e12, "bfloat16": 350e12, "float16": 350e12}
GPU_STEP, GPU_TOKEN = 3e-3, 1.5e-3
# of a large float32 product of all cores, what the products of a job reach on its threads
CPU_SHARE = 0.75
SLOW_HALVES = 1 / 6  # of that, in half precision on a processor without units for it
MEMORY = {"cpu": 10e9, "gpu": 2e12}  # bytes a second
# seconds of a process to decode a file
DECODE = {"image": 0.01, "video": 1.0, "audio": 0.05, "none": 0.0}

Key = tuple[str, ...]  # stage, then what it is about, the general first


@dataclass(frozen=True)
class Measured:
    """A job that has run: what it is, its operations, the seconds that they took, and those that it
    took besides, for its start (None: not known).
    """

    key: Key
    operations: float
    seconds: float
    start: float | None = None


@dataclass(frozen=True)
class Rates:
    """The speed of a device, in operations a second, by what jobs like it have reached; `start`
    seconds go by until a job has its models and is at its first step.
    """

    device: str  # cpu or gpu
    measured: Mapping[Key, float]
    start: float = START

    @classmethod
    def of(cls, device: str, jobs: Iterable[Measured]) -> "Rates":
        """The median of the jobs that share the first parts of a key, for all of them."""
        found: dict[Key, list[float]] = {}
        starts = []
        for job in jobs:
            starts += [] if job.start is None else [job.start]
            for length in range(1, len(job.key) + 1):
                rates = found.setdefault(job.key[:length], [])
                rates.append(job.operations / max(job.seconds, 0.1))
        middle = {key: median(rates) for key, rates in found.items()}
        return cls(device, middle, median(starts) if starts else START)

    def seconds(self, key: Key, operations: float, assumed: float) -> float:
        """Seconds of a job's work, without its start, from the most similar ones that have been
        measured; `assumed` if there are none.
        """
        for length in range(len(key), 0, -1):
            if (rate := self.measured.get(key[:length])) is not None:
                return operations / rate
        return assumed

    def assumed(self, precision: str, threads: int) -> float:
        """Operations a second of a job in a precision, by assumption."""
        if self.device == "gpu":
            return GPU[precision]
        slow = 1.0 if multiplies(precision) else SLOW_HALVES
        cores = os.cpu_count() or 1
        return product() * min(1.0, threads / cores) * CPU_SHARE * slow


@cache
def product() -> float:
    """Operations a second of a large float32 product on all cores, by numpy; of the processor's own
    time, so that it counts little what else the machine is doing.
    """
    size, runs = 1024, 6
    a = np.ones((size, size), np.float32)
    _ = a @ a
    times = []
    for _ in range(runs):
        started = time.process_time()
        _ = a @ a
        times.append(time.process_time() - started)
    return 2.0 * size**3 / min(times) * (os.cpu_count() or 1)
