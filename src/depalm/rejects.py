"""Bad input: set aside with a reason, listed in a file, and tolerated up to a fraction."""

import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from depalm.errors import DepalmError
from depalm.parquet import read_parquet, write_parquet
from depalm.progress import logger

SCHEMA = pa.schema([("id", pa.string()), ("media", pa.string()), ("reason", pa.string())])
NAMED = 5  # so many rejects are named in a message


class RejectError(DepalmError):
    """More of the input is bad than is tolerated."""


class MediaError(DepalmError):
    """A media file that cannot be decoded; the message is the reason, without the file's name."""


class SlowMedia(MediaError):  # noqa: N818
    """A media file whose decoding took longer than `limit` seconds."""

    def __init__(self, limit: float):
        super().__init__(f"decoding took longer than {limit:g} s")
        self.limit = limit


def undecodable(error: Exception) -> MediaError:
    """A decoder's error without the file's name, which libsndfile and FFmpeg add."""
    plain = getattr(error, "error_string", None) or getattr(error, "strerror", None)
    return MediaError(f"cannot be decoded: {plain or str(error) or type(error).__name__}")


def require_content(path: Path) -> None:
    """Raise MediaError if there is no such file, or nothing in it."""
    try:
        status = path.stat()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise MediaError("no such file" if missing else f"cannot be opened: {error}") from error
    if stat.S_ISREG(status.st_mode) and not status.st_size:
        raise MediaError("the file is empty")


@dataclass(frozen=True)
class Reject:
    """A sample that was set aside: its id, the path of its media, and why; with a limit in seconds,
    if its decoding took longer.
    """

    id: str
    media: str
    reason: str
    limit: float | None = None


def write_rejects(path: Path | str, rejects: Sequence[Reject]) -> None:
    """Write a parquet file of id, media, reason; without rejects it has no rows."""
    table = pa.Table.from_pylist([asdict(reject) for reject in rejects], schema=SCHEMA)
    write_parquet(path, table)


def read_rejects(path: Path | str) -> list[Reject]:
    return [Reject(**row) for row in read_parquet(path).cast(SCHEMA).to_pylist()]


def check_rejects(rejects: Sequence[Reject], total: int, tolerated: float, what: str) -> None:
    """Raise RejectError naming some of them if more than the fraction `tolerated` of `total` were
    rejected.
    """
    if len(rejects) > tolerated * total:
        raise RejectError(
            f"{_summary(rejects, total, what)}. That is over max_reject_fraction {tolerated:g}: "
            "mend the files, or raise it if you can do without them"
        )


def report_rejects(rejects: Sequence[Reject], total: int, what: str) -> None:
    """Log how many of `total` were rejected, why, and some of them by name."""
    if rejects:
        logger.warning("%s", _summary(rejects, total, what))


def _summary(rejects: Sequence[Reject], total: int, what: str) -> str:
    reasons = Counter(reject.reason for reject in rejects).most_common(NAMED)
    counted = ", ".join(f"{count} x {reason}" for reason, count in reasons)
    named = ", ".join(dict.fromkeys(reject.media for reject in rejects[:NAMED]))
    more = ", ..." if len(rejects) > NAMED else ""
    return f"{what}: {len(rejects)} of {total} rejected ({counted}): {named}{more}"
