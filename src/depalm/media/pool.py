"""Decoding in processes of their own: a file that hangs or crashes its decoder is rejected, and the
work goes on.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from depalm.datasets.containers import ContainerError, local_file
from depalm.errors import DepalmError
from depalm.files import sha256_file
from depalm.media.decoders import Decoder
from depalm.process import close_stdin, end_with_parent
from depalm.rejects import MediaError, Reject, SlowMedia

FORK = multiprocessing.get_context("fork")  # others would run the main script once more
AHEAD = 2  # batches that are decoded ahead, for each process
PARENT_CHECK = 5.0  # seconds between looks whether the parent still lives
DEATH = 5.0  # seconds given to a process to end
CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL}


class DecodingError(DepalmError):
    """Decoding that failed for another reason than the file."""


class ChangedFile(DecodingError):  # noqa: N818
    """A file that is not what its manifest says."""


class File(NamedTuple):
    """A file to decode: its name in the manifest, where it is, the seed of its augmentation, and
    its SHA-256, if it must have one.
    """

    name: str
    path: Path
    seed: int | None
    sha256: str = ""


class DecodedBatch(NamedTuple):
    """Names of the files that could be decoded, their tensors [B, ...] (empty without any), and the
    others.
    """

    media: list[str]
    inputs: Tensor
    rejects: list[Reject]


class DecodingPool:
    """Decodes with `workers` processes; a file that takes longer than `seconds` is rejected, its
    process killed and replaced.

    A file that crashes the decoder is rejected too. Used in a ``with`` block. The processes are
    forked: they compute with one thread, on the CPU.
    """

    def __init__(self, decoder: Decoder, workers: int, seconds: float, pin_memory: bool = False):
        self.decoder, self.workers, self.seconds = decoder, workers, seconds
        self.pin_memory = pin_memory
        self.lock = threading.Lock()  # no process is forked while another one's pipe is made
        self.closed = False
        self.processes = {_Process(decoder) for _ in range(workers)}
        self.idle: SimpleQueue[_Process] = SimpleQueue()
        for process in self.processes:
            self.idle.put(process)
        self.threads = ThreadPoolExecutor(workers, "decoding")

    def decode(self, batches: Iterable[Sequence[File]]) -> Iterator[DecodedBatch]:
        """The batches in their order, decoded some ahead. Raises DecodingError."""
        pending: deque[Future[DecodedBatch]] = deque()
        for batch in batches:
            pending.append(self.threads.submit(self._decode, batch))
            if len(pending) > AHEAD * self.workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _decode(self, batch: Sequence[File]) -> DecodedBatch:
        process = self.idle.get()
        tensors: dict[str, Tensor] = {}
        rejects = []
        try:
            for file in batch:
                try:
                    tensors[file.name] = process.decode(file, self.seconds)
                except MediaError as error:
                    limit = getattr(error, "limit", None)
                    rejects.append(Reject(file.name, file.name, str(error), limit))
                if not process.usable:
                    process = self._replace(process)
        finally:
            self.idle.put(process)
        inputs = torch.stack(list(tensors.values())) if tensors else torch.empty(0)
        return DecodedBatch(
            list(tensors), inputs.pin_memory() if self.pin_memory else inputs, rejects
        )

    def _replace(self, process: "_Process") -> "_Process":
        with self.lock:
            if self.closed:
                raise DecodingError("decoding was ended")
            self.processes.remove(process)
            new = _Process(self.decoder)
            self.processes.add(new)
        return new

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self.lock:
            self.closed = True
            for process in self.processes:
                process.kill()
        self.threads.shutdown(cancel_futures=True)


class _Process:
    """One process that decodes; `usable` until it is killed or dies."""

    def __init__(self, decoder: Decoder):
        self.connection, theirs = FORK.Pipe()
        self.process = FORK.Process(target=_serve, args=(theirs, decoder, os.getpid()), daemon=True)
        self.process.start()
        theirs.close()
        self.usable = True

    def decode(self, file: File, seconds: float) -> Tensor:
        """Raises MediaError, and DecodingError for what the file has no part in."""
        try:
            self.connection.send((file.path, file.seed, file.sha256))
            if not self.connection.poll(seconds):
                self.kill()
                raise SlowMedia(seconds)
            answer = self.connection.recv()
        except (EOFError, OSError) as error:
            self.process.join(DEATH)
            self.kill()
            raise self._death(file) from error
        if isinstance(answer, np.ndarray):
            return torch.from_numpy(answer)
        raise answer

    def kill(self) -> None:
        self.usable = False
        self.process.kill()
        self.process.join(DEATH)  # a process that waits for a dead disk cannot even be killed

    def _death(self, file: File) -> Exception:
        code = self.process.exitcode or 0
        if -code in CRASHES:
            return MediaError(f"it crashes the decoder ({signal.Signals(-code).name})")
        return DecodingError(
            f"the process that was decoding {file.path} ended with exit code {code}; it may "
            "have run out of memory: try fewer workers or a smaller batch_size"
        )


def _serve(connection: "Connection[Any, Any]", decoder: Decoder, parent: int) -> None:
    """Decode what is asked for until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    end_with_parent()
    close_stdin()
    torch.set_num_threads(1)
    while True:
        while not connection.poll(PARENT_CHECK):
            if os.getppid() != parent:
                return
        path, seed, sha256 = connection.recv()
        try:
            with local_file(path) as file:
                if sha256:
                    _require_same(path, file, sha256)
                connection.send(decoder(file, seed).numpy())
        except MediaError as error:
            connection.send(MediaError(str(error)))
        except ContainerError as error:
            connection.send(ChangedFile(f"{error}, as its manifest says: run Snakemake again"))
        except ChangedFile as error:
            connection.send(error)
        except Exception:
            connection.send(DecodingError(f"{path}: {traceback.format_exc()}"))


def _require_same(path: Path, file: Path, sha256: str) -> None:
    """Raises ChangedFile if `file`, which has what `path` names, is not as it was."""
    try:
        same = sha256_file(file) == sha256
    except OSError:
        same = False
    if not same:
        raise ChangedFile(f"{path} has changed since its manifest was made: run Snakemake again")
