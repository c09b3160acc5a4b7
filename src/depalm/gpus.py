"""GPUs of this machine: each for one job at a time, whoever starts it.

A job holds a lock on a file of the GPU's for as long as its process lives, and sees that GPU alone
(CUDA_VISIBLE_DEVICES). A scheduler that has given its job GPUs is obeyed: of those one is taken.
"""

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from depalm.progress import logger

LOCKS = Path(tempfile.gettempdir())  # of this machine, for all its users
LOOK, NOTICE = 1.0, 60.0  # seconds between two looks, and between two messages of a job that waits
VISIBLE = "CUDA_VISIBLE_DEVICES"
TAKEN = "DEPALM_GPU"  # which GPU a process has taken, behind its number


def gpu_here() -> bool:
    """Whether this machine seems to have a GPU that processes may use, without loading torch."""
    others = (Path("/dev/kfd"), Path("/dev/dxg"))
    if os.environ.get(VISIBLE, "all") in ("", "-1"):
        return False
    return bool(visible_gpus()) or any(device.exists() for device in others)


def gpu_for(device: str, cluster: bool = False) -> bool:
    """Whether jobs on a device of the settings (auto, cpu, cuda...) take a GPU; on a cluster, whose
    nodes are not this machine, `auto` means that they do.
    """
    return {"cpu": False, "auto": cluster or gpu_here()}.get(device, True)


def visible_gpus(devices: Path = Path("/dev")) -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; those of NVIDIA alone
    can be counted without a library.
    """
    told = os.environ.get(VISIBLE)
    if told is not None:
        return [name.strip() for name in told.split(",") if name.strip() not in ("", "-1")]
    numbers = [re.fullmatch(r"nvidia(\d+)", path.name) for path in devices.glob("nvidia*")]
    return sorted((match[1] for match in numbers if match), key=int)


def take_gpu(device: str, gpus: Sequence[str] | None = None, locks: Path = LOCKS) -> str | None:
    """Take a GPU of `gpus` (by default those that are visible) that no other job has, for as long
    as this process lives, and hide the others; it waits until there is one. Returns its name.

    Nothing is taken for a `device` that is the CPU or a GPU by number, or where there is no choice
    to be made. It must be called before CUDA starts.
    """
    names = visible_gpus() if gpus is None else list(gpus)
    if device not in ("auto", "cuda") or not names:
        return None
    owner, _, taken = os.environ.get(TAKEN, "").partition(" ")
    if owner == str(os.getpid()):
        return taken
    told = 0.0
    while True:
        for name in names:
            if _locked(locks / f"depalm-gpu-{re.sub(r'[^A-Za-z0-9-]', '_', name)}.lock"):
                os.environ[VISIBLE], os.environ[TAKEN] = name, f"{os.getpid()} {name}"
                return name
        if time.monotonic() - told >= NOTICE:
            logger.info("other jobs have all GPUs (%s): waiting for one", ", ".join(names))
            told = time.monotonic()
        time.sleep(LOOK)


def _locked(path: Path) -> bool:
    """Lock a file until this process ends. Another user's file can be locked, not written."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return False
    return True
