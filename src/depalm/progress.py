"""Progress of long work, line by line: jobs run side by side and share one screen and a log."""

import logging
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
logger = logging.getLogger("depalm")


def log_to(path: Path | str | None) -> None:
    """Send the package's log to the screen and, if `path` is given, to that file (appended)."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logger.handlers = handlers
    logger.setLevel(logging.INFO)


def log_file() -> Path | None:
    """The file that `log_to` was given."""
    files = [h.baseFilename for h in logger.handlers if isinstance(h, logging.FileHandler)]
    return Path(files[0]) if files else None


class Progress:
    """Logs count, rate and time left, at most every `interval` seconds and once at the end."""

    def __init__(self, total: int, what: str, unit: str, done: int = 0, interval: float = 10.0):
        self.total, self.what, self.unit, self.interval = total, what, unit, interval
        self.done = self.resumed_at = done
        self.started = self.shown = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units as done; `note` (a loss, say) is shown behind them."""
        self.done += count
        now = time.monotonic()
        if now - self.shown >= self.interval or self.done >= self.total:
            self.shown = now
            meter = tqdm.format_meter(
                self.done,
                self.total,
                now - self.started,
                prefix=self.what,
                unit=self.unit,
                ncols=0,
                initial=self.resumed_at,
                postfix=note or None,
            )
            logger.info(meter)


class Clock:
    """Seconds by stage of a pipeline."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[stage] += time.monotonic() - started

    def each(self, stage: str, items: Iterator[Item]) -> Iterator[Item]:
        """The items; the time until each is there is that of `stage`."""
        while True:
            with self.measure(stage):
                item = next(items, None)
            if item is None:
                return
            yield item

    def summary(self, count: int) -> str:
        total = time.monotonic() - self.started
        stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in self.seconds.items())
        return f"{count} files in {total:.1f} s, {count / total:.1f} a second; {stages}"
