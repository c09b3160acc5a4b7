"""How fast the work is done: measured by earlier jobs, or else assumed."""

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from statistics import median

import numpy as np
from threadpoolctl import threadpool_limits

from depalm.process import multiplies

START = 6.0  # seconds, of jobs that nobody has measured
# operations a second of an H100, as measured (docs/benchmarks.md#gpu-speed), and the least seconds
# a layer takes: in a training step, for a generated token
GPU = {"float32": 42e12, "tf32": 160e12, "bfloat16": 350e12, "float16": 350e12}
GPU_STEP, GPU_TOKEN = 3e-3, 1.5e-3
# of what `layer_speed` says of all cores, what a job reaches on its threads; how much of that for a
# few tokens at a time; and in half precision, on a processor with units for it and on one without
CPU_SHARE, FEW_TOKENS = 0.8, 0.7
FAST_HALVES, SLOW_HALVES = 2.0, 1 / 6
MEMORY = {"cpu": 10e9, "gpu": 2e12}  # bytes a second
# seconds of a process to decode a file
DECODE = {"image": 0.01, "video": 1.0, "audio": 0.05, "none": 0.0}

Key = tuple[str, ...]  # stage, then what it is about, the general first
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


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

    def assumed(self, precision: str, threads: int, generates: bool = False) -> float:
        """Operations a second of a job in a precision, by assumption."""
        if self.device == "gpu":
            return GPU[precision]
        factor = FEW_TOKENS if generates else 1.0
        if precision in ("bfloat16", "float16"):
            factor *= FAST_HALVES if multiplies(precision) else SLOW_HALVES
        cores = os.cpu_count() or 1
        return layer_speed() * min(1.0, threads / cores) * CPU_SHARE * factor


@cache
def layer_speed() -> float:
    """Operations a second, on all cores, of float32 layers as small LLMs have them, by numpy: their
    weights come from memory, and each product is gone over several times. (A product alone is up to
    twice as fast.) Of the processor's own time, so that it counts little what else the machine
    does.
    """
    tokens, width, inner, layers, runs = 384, 576, 1536, 8, 3
    weights = [
        (np.full((width, inner), 1e-3, np.float32), np.full((inner, width), 1e-3, np.float32))
        for _ in range(layers)
    ]
    times = []
    with threadpool_limits(1):  # threads that wait for a busy core would count
        for _ in range(runs):
            hidden: Floats = np.ones((tokens, width), np.float32)
            started = time.process_time()
            for up, down in weights:
                hidden = _gone_over(_gone_over(hidden @ up) @ down)
            times.append(time.process_time() - started)
    return 4.0 * tokens * width * inner * layers / min(times) * (os.cpu_count() or 1)


def _gone_over(values: Floats, passes: int = 8) -> Floats:
    """As norms, gates and their gradients do."""
    for _ in range(passes):
        values = values * np.float32(1.0)
    return values
