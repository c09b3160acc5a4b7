"""One writer at a time: a job owns what it writes by a lease, a small file beside it.

It works on any file system that several machines share, without locks: a job creates a file of its
own, then looks whether another one lives; of two that do so at once, at least one sees the other.
A file lives as long as its owner touches it. Whether it does is told by whether its time changes,
not by comparing clocks. An owner on the same machine is known to be dead at once.
"""

import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from secrets import token_hex
from typing import TypeVar

from depalm.errors import DepalmError
from depalm.progress import logger

Result = TypeVar("Result")
HEARTBEAT = 10.0  # seconds between two touches
PATIENCE = 120.0  # an owner that has not touched its file for so many seconds is dead
LOOK = 1.0  # a check looks at the disk again after so many seconds
NOTICE = 60.0  # seconds between two messages of a job that waits


class LeaseLost(DepalmError):  # noqa: N818
    """This job was taken for dead, and another one writes what it owned."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lease; `boot` tells one run of a machine, and one container on it, from others.

    `started` is when the process started, in the kernel's clock: process numbers are used again.
    """

    host: str
    boot: str
    pid: int
    started: str
    job: str | None

    @classmethod
    def this(cls) -> "Owner":
        job = os.environ.get("SLURM_JOB_ID")
        return cls(socket.gethostname(), _boot(), os.getpid(), _started(os.getpid()), job)

    @property
    def is_dead(self) -> bool:
        """Whether it surely is; of one on another machine nothing is known."""
        here = Owner.this()
        if (self.host, self.boot) != (here.host, here.boot) or not here.boot:
            return False
        return _started(self.pid) != self.started

    def __str__(self) -> str:
        job = f"Slurm job {self.job}, " if self.job else ""
        return f"{job}process {self.pid} on {self.host}"


class Lease:
    """Held by this job for as long as nobody takes it for dead; made by `lease`.

    `waited`: another job held it when this one came, and has ended since.
    """

    def __init__(self, path: Path, waited: bool):
        self.path, self.waited = path, waited
        self.looked = time.monotonic()

    def check(self) -> None:
        """Raise LeaseLost if another job has taken over; called before anything is written."""
        now = time.monotonic()
        if now - self.looked >= LOOK:
            try:
                self.path.open().close()  # to open it asks the server of a shared file system
            except OSError as error:
                raise LeaseLost(
                    f"{self.path} is gone: this job was taken for dead, and another took over"
                ) from error
            self.looked = now


@contextmanager
def lease(place: Path, heartbeat: float = HEARTBEAT, patience: float = PATIENCE) -> Iterator[Lease]:
    """Own what is written to `place` (a file or folder), after waiting for a living owner to end.

    While it waits, the log names the owner. The lease is `.{name}.lease-{token}` beside `place`; it
    is touched every `heartbeat` seconds, and taken for dead after `patience` seconds without.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    path = place.parent / f"{_prefix(place)}{token_hex(8)}"
    waited = _acquire(place, path, heartbeat, patience)
    ended = threading.Event()
    thread = threading.Thread(target=_touch, args=(path, heartbeat, ended), daemon=True)
    thread.start()
    try:
        yield Lease(path, waited)
    finally:
        ended.set()
        thread.join()
        path.unlink(missing_ok=True)


def while_owned(place: Path, work: Callable[[Lease], Result]) -> Result:
    """Call `work` with the lease of `place`; its result.

    A job that loses it waits for the new owner to end, and calls `work` again, which finds what
    that one has made.
    """
    while True:
        try:
            with lease(place) as held:
                return work(held)
        except LeaseLost as error:
            logger.warning("%s: stopped writing, and waiting for it to end", error)


def _acquire(place: Path, path: Path, heartbeat: float, patience: float) -> bool:
    """Create the lease `path` when no other one of `place` lives; whether that took waiting."""
    others = _Others(place, path, patience)
    waited, told = False, -NOTICE
    while True:
        if not (living := others.living()):
            path.write_text(json.dumps(asdict(Owner.this())))
            if not (living := others.living()):
                others.remove()
                return waited
            path.unlink(missing_ok=True)  # two at once: neither has it
        waited = True
        if time.monotonic() - told >= NOTICE:
            logger.info("%s is being written by %s: waiting for it to end", place, living[0])
            told = time.monotonic()
        time.sleep(heartbeat / 10 * (1 + random.random()))


class _Others:
    """The leases of `place` besides our own, as they are seen by a job that wants one."""

    def __init__(self, place: Path, own: Path, patience: float):
        self.place, self.own, self.patience = place, own, patience
        self.seen: dict[Path, tuple[int, float]] = {}  # time of its last touch; since when

    def living(self) -> list[Owner | str]:
        """The owners of leases that are not known to be dead."""
        return [owner for path in self._paths() if (owner := self._owner_if_alive(path))]

    def remove(self) -> None:
        """Remove the leases of the dead, who learn it from that if they are not."""
        for path in self._paths():
            logger.warning("%s was left by a job that has died: going on from what is there", path)
            path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        prefix, folder = _prefix(self.place), self.place.parent
        return [p for p in folder.iterdir() if p.name.startswith(prefix) and p != self.own]

    def _owner_if_alive(self, path: Path) -> Owner | str | None:
        try:
            touched, text = path.stat().st_mtime_ns, path.read_text()
        except FileNotFoundError:  # it ended meanwhile
            return None
        now = time.monotonic()
        before, since = self.seen.get(path, (None, now))
        if touched != before:
            since = now
        self.seen[path] = (touched, since)
        try:
            owner: Owner | str = Owner(**json.loads(text))
        except (ValueError, TypeError):  # it is being written, or was cut
            owner = "another job"
        dead = isinstance(owner, Owner) and owner.is_dead
        return None if dead or now - since >= self.patience else owner


def _touch(path: Path, heartbeat: float, ended: threading.Event) -> None:
    while not ended.wait(heartbeat):
        with suppress(OSError):  # if it is gone, the next check tells; else the next touch may work
            os.utime(path)


def _prefix(place: Path) -> str:
    return f".{place.name}.lease-"


def _boot() -> str:
    """What tells this run of this machine from others; empty where the kernel does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started, in ticks of the kernel (proc(5), stat field 22); empty if it has
    ended.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
