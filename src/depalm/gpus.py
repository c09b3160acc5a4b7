"""GPUs of this machine: each for one job at a time, whoever starts it.

A job holds a lock on a file of each of its GPUs for as long as its process lives, and sees those
alone (CUDA_VISIBLE_DEVICES). Where that is set already, a scheduler or a user has decided, and is
obeyed.
"""

import fcntl
import os
import random
import re
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from depalm.errors import DepalmError
from depalm.progress import logger

DEVICES = Path("/dev")
LOCKS = Path(tempfile.gettempdir())  # of this machine, for all its users
LOOK, NOTICE = 1.0, 60.0  # seconds between two looks, and between two messages of a job that waits
VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"


class GPUError(DepalmError):
    """A job that is to have more GPUs than there are."""


def gpu_here() -> bool:
    """Whether this machine seems to have a GPU that processes may use, without loading torch."""
    if os.environ.get(VISIBLE, "all") in ("", "-1"):
        return False
    others = (Path("/dev/kfd"), Path("/dev/dxg"))
    return bool(numbers()) or any(device.exists() for device in others)


def gpu_for(device: str, cluster: bool = False) -> bool:
    """Whether jobs on a device of the settings (auto, cpu, cuda...) take a GPU; on a cluster, whose
    nodes are not this machine, `auto` means that they do.
    """
    return {"cpu": False, "auto": cluster or gpu_here()}.get(device, True)


def numbers(devices: Path = DEVICES) -> list[int]:
    """The numbers of NVIDIA's GPUs in a folder of devices that this process may open: those of a
    cluster's job, or of a container, in the order of their bus.
    """
    found = []
    for path in devices.glob("nvidia*"):
        if (match := re.fullmatch(r"nvidia(\d+)", path.name)) is not None:
            with suppress(OSError):
                os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
                found.append(int(match[1]))
    return sorted(found)


def take_gpus(
    device: str, count: int = 1, devices: Path = DEVICES, locks: Path = LOCKS
) -> list[int]:
    """Take `count` GPUs that no other job has, for as long as this process lives, and hide the
    others; it waits until there are so many. Returns their numbers.

    Nothing is taken for a `device` that is the CPU or a GPU by number, where CUDA_VISIBLE_DEVICES
    says what to take, or where there is no GPU of NVIDIA's. It must be called before CUDA starts.
    Raises GPUError where there are fewer.
    """
    there = numbers(devices)
    if device not in ("auto", "cuda") or VISIBLE in os.environ or not there:
        return []
    if count > len(there):
        raise GPUError(f"a job is to have {count} GPUs, and this machine has {len(there)}")
    told = 0.0
    while True:
        # all or none, lest jobs that each have some wait for each other
        if len(taken := _take(there, count, locks)) == count:
            # as CUDA counts those that this process may open
            os.environ[VISIBLE] = ",".join(str(there.index(number)) for number in taken)
            os.environ[ORDER] = "PCI_BUS_ID"
            return taken
        if not told or time.monotonic() - told >= NOTICE:
            logger.info("waiting for %d of %d GPUs, which other jobs have", count, len(there))
            told = time.monotonic()
        time.sleep(LOOK * (1 + random.random()))


def _take(there: Sequence[int], count: int, locks: Path) -> list[int]:
    """Lock `count` of the GPUs that are `there`, or none."""
    files: dict[int, int] = {}
    for number in there:
        file = _locked(locks / f"depalm-gpu-{number}.lock")
        if file is not None:
            files[number] = file
        if len(files) == count:
            return list(files)
    for file in files.values():
        os.close(file)
    return []


def _locked(path: Path) -> int | None:
    """Lock a file until this process ends or closes it; None if another process has. That of
    another user can be locked, not written.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    return file
