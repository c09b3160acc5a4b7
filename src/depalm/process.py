"""What surrounds every job: its log, and its end."""

import ctypes
import errno
import os
import select
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from depalm.errors import DepalmError
from depalm.files import FULL
from depalm.progress import log_to, logger

PR_SET_PDEATHSIG = 1  # linux/prctl.h
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # malloc.h of glibc
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
# flags of processors that multiply in half precision (Linux, x86 and Arm)
HALF_UNITS = {
    "bfloat16": {"avx512_bf16", "amx_bf16", "bf16"},
    "float16": {"avx512_fp16", "amx_fp16", "asimdhp"},
}


@contextmanager
def job(log: Path | str) -> Iterator[None]:
    """What surrounds a job of Snakemake's: errors are told as `reported` says, no standard
    input is read, and the job ends when Snakemake ends.

    Snakemake ends its jobs when it is asked to stop. When it is killed outright it cannot, and a
    job that went on would write beside the one of the next start.
    """
    with reported(log):
        close_stdin()
        end_with_parent()
        yield


@contextmanager
def reported(log: Path | str | None) -> Iterator[None]:
    """Log to the screen and, if it is given, to the file `log`, which ends with the error if there
    is one.

    An expected error is told in one line, and so are a full disk and a file that this user may not
    read or write; a bug keeps its traceback.
    """
    log_to(log)
    signal.signal(signal.SIGTERM, _terminate)
    keep_memory()
    try:
        yield
    except DepalmError as error:
        logger.error("%s: %s", type(error).__name__, " ".join(str(error).split()))
        raise SystemExit(1) from None
    except BaseException as error:
        if (place := full_disk(error)) is not None:
            logger.error(
                "no space left on the disk%s: nothing half is left of it; make room, and run again",
                place,
            )
            raise SystemExit(1) from None
        if isinstance(error, OSError) and error.errno in FORBIDDEN:
            logger.error(
                "%s: this user may not; ask its owner for the right, or work in a folder of your "
                "own",
                error,
            )
            raise SystemExit(1) from None
        if log is not None:
            with Path(log).open("a", encoding="utf-8") as stream:
                stream.write(traceback.format_exc())
        raise


@contextmanager
def readers_may_leave() -> Iterator[None]:
    """What is printed within may go to a reader that has seen enough (`| head`): then the process
    ends without a word, with 141, as a shell tells it of SIGPIPE.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        output = select.poll()
        output.register(sys.stdout.fileno(), 0)
        if not output.poll(0):  # it is there still: another pipe broke
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None


def full_disk(error: BaseException) -> str | None:
    """The file that a full disk, or a quota, has no room for, as part of a sentence; None for
    another error.
    """
    if isinstance(error, OSError) and error.errno in FULL:
        return f" for {error.filename}" if error.filename else ""
    return None


def not_ours(folder: Path) -> str:
    """The first of the folder, its .snakemake and what is in that, which this user may not write,
    as a sentence; empty if there is none.
    """
    places = [folder, folder / ".snakemake", *(folder / ".snakemake").glob("*")]
    for place in places:
        if place.is_dir() and not os.access(place, os.W_OK | os.X_OK):
            return (
                f"{place.resolve()} cannot be written by this user: work in a folder of your own "
                "(--directory), or ask its owner for the right"
            )
    return ""


def keep_memory() -> None:
    """Let large tensors that come and go on the CPU have the same memory again
    (docs/design.md#pages): torch takes 2 MB and more in huge pages, which it decides once, at the
    first tensor, and glibc keeps what is freed, for all threads alike.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_ARENA_MAX, 1)


def multiplies(dtype: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this machine's processor has units for matrix products in `dtype`, a name such as
    float32 or bfloat16. Where it cannot be told (not Linux), it is taken to have them.
    """
    if dtype not in HALF_UNITS:
        return True
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return True
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), None)
    return flags is None or not HALF_UNITS[dtype].isdisjoint(flags.split())


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent ends; only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _terminate(number: int, _: object) -> None:
    """End as after an error: what is held is given back, and the log says why."""
    raise SystemExit(f"ended by {signal.Signals(number).name}, as a scheduler or its user asked")


def close_stdin() -> None:
    """Nothing in this process, nor what it starts, reads what somebody types or pipes in: no answer
    to a library's question can come from there.
    """
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    if nothing:
        os.close(nothing)
