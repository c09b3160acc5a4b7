"""What every job of the workflow does first."""

import ctypes
import os
import signal
import sys
from pathlib import Path

from depalm.progress import log_to

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def start_job(log: Path | str) -> None:
    """Log to the screen and to `log`, read no standard input, and end when Snakemake ends.

    Snakemake ends its jobs when it is asked to stop. When it is killed outright it cannot, and a
    job that went on would write beside the one of the next start.
    """
    log_to(log)
    close_stdin()
    end_with_parent()


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent ends; only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def close_stdin() -> None:
    """Nothing in this process, nor what it starts, reads what somebody types or pipes in: no answer
    to a library's question can come from there.
    """
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    if nothing:
        os.close(nothing)
