"""The Java programs of caption metrics: run to their end, or asked line by line."""

import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from depalm.errors import DepalmError

# numbers and texts in Java's programs are those of no country, whatever this machine's is
JAVA = ("java", "-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8")
DEADLINE = 300.0  # seconds for one answer; the longest that is known took 20


class MetricError(DepalmError):
    """A metric that is unknown or cannot run here, or predictions of other samples."""


def run_java(*arguments: str | Path, text: str = "") -> str:
    """Run a Java program to its end on `text`: its output, or MetricError with its complaints."""
    done = subprocess.run(
        [*JAVA, *arguments], input=text, capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode:
        raise MetricError(f"java {' '.join(map(str, arguments))} failed: {done.stderr[-1000:]}")
    return done.stdout


class Conversation:
    """A Java program that answers lines with lines."""

    def __init__(self, process: "subprocess.Popen[str]"):
        self.process, self.heard = process, time.monotonic()

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")

    def answer(self) -> str:
        """The next line. Raises ValueError if there is none."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ValueError("it ended")
        self.heard = time.monotonic()
        return line.rstrip("\n")


@contextmanager
def conversation(name: str, *arguments: str | Path) -> Iterator[Conversation]:
    """A Java program, called `name`, to talk with.

    Raises MetricError with its complaints if it fails, or if an answer takes more than DEADLINE.
    """
    pipe, ended, late = subprocess.PIPE, threading.Event(), threading.Event()
    with tempfile.TemporaryFile() as complaints:
        try:
            with subprocess.Popen(
                [*JAVA, *map(str, arguments)],
                stdin=pipe,
                stdout=pipe,
                stderr=complaints,
                encoding="utf-8",
                bufsize=1,
            ) as java:
                talk = Conversation(java)

                def watch() -> None:
                    while not ended.wait(min(1.0, DEADLINE / 4)):
                        if time.monotonic() - talk.heard > DEADLINE:
                            late.set()
                            java.kill()

                threading.Thread(target=watch, daemon=True).start()
                yield talk
        except (OSError, ValueError) as error:
            complaints.seek(0)
            message = complaints.read().decode(errors="replace")[-1000:] or str(error)
            if late.is_set():
                message = f"it gave no answer in {DEADLINE:.0f} s"
            raise MetricError(f"{name}'s Java program failed: {message}") from error
        finally:
            ended.set()
