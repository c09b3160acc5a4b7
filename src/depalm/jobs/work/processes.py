"""A job in several processes of this machine, each with a GPU of its own.

The job's own process waits: it holds the lease of the folder and the locks of the GPUs, and gives
the outputs their places. The others compute in that folder, and end with it.
"""

import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed

from depalm.errors import DepalmError
from depalm.files import atomic_file
from depalm.jobs.generate import GenerateJob
from depalm.jobs.train import TrainJob
from depalm.jobs.work.models import use_processors
from depalm.lease import Lease
from depalm.process import end_with_parent
from depalm.progress import log_file, log_to, logger
from depalm.training.group import Group

Work = TypeVar("Work", TrainJob, GenerateJob)
PATIENCE = timedelta(hours=6)  # of a process for the others, one of which may load from slow disks
LOOK = 0.2  # seconds between two looks at the processes
ENDING = 10.0  # seconds in which a process may end after it is asked to


class ProcessError(DepalmError):
    """One of a job's processes has failed, and the others were ended."""


def in_processes(job: TrainJob | GenerateJob, module: str, folder: Path, held: Lease) -> None:
    """Run `module` in each of the job's processes: with the job's file in `folder`, the process's
    number, the folder where they meet, and the log.

    Raises ProcessError with the error of the first that fails; it ends them all if the lease is
    lost.
    """
    file = folder / "job.json"
    with atomic_file(file) as temporary:
        temporary.write_text(job.to_json(), encoding="utf-8")
    log = str(log_file() or "")
    with tempfile.TemporaryDirectory(prefix="depalm-") as meeting, ExitStack() as ending:
        workers = []
        for rank in range(job.processes):
            command = [sys.executable, "-m", module, str(file), str(rank), meeting, log]
            workers.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))
            ending.callback(_end, workers[-1])
        while any(worker.poll() is None for worker in workers):
            for rank, worker in enumerate(workers):
                if worker.poll():
                    raise _failure(rank, worker.returncode, Path(meeting))
            held.check()
            time.sleep(LOOK)
        for rank, worker in enumerate(workers):
            if worker.returncode:
                raise _failure(rank, worker.returncode, Path(meeting))
    file.unlink()


def _failure(rank: int, code: int, meeting: Path) -> Exception:
    told = meeting / f"error.{rank}"
    if told.is_file():
        kind, _, text = told.read_text(encoding="utf-8").partition("\n")
        return ProcessError(f"process {rank}: {text}") if kind == "told" else RuntimeError(text)
    how = f"signal {-code}" if code < 0 else f"exit status {code}"
    memory = "; was there too little memory?" if code == -9 else ""
    return ProcessError(f"process {rank} ended by {how}{memory}")


def _end(worker: "subprocess.Popen[bytes]") -> None:
    worker.terminate()
    try:
        worker.wait(ENDING)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()


def work_as_one(
    kind: type[Work], work: Callable[[Work, torch.device, Group], None], arguments: list[str]
) -> None:
    """What a process does: join the others, and do its part of the job by `work`."""
    file, number, meeting, log = arguments
    end_with_parent()
    log_to(log or None)
    rank = int(number)
    if rank:
        logger.setLevel("WARNING")
    told = Path(meeting, f"error.{rank}")
    try:
        job = kind.from_file(file)
        device = use_processors(job, job.dtype, job.processes, rank)
        torch.distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=f"file://{meeting}/all",
            rank=rank,
            world_size=job.processes,
            timeout=PATIENCE,
        )
        work(job, device, Group(rank, job.processes))
        torch.distributed.destroy_process_group()
    except DepalmError as error:
        told.write_text(f"told\n{type(error).__name__}: {error}", encoding="utf-8")
        raise SystemExit(1) from None
    except Exception:
        told.write_text(f"bug\n{traceback.format_exc()}", encoding="utf-8")
        raise
