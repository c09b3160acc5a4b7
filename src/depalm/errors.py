"""The one ancestor of all expected errors: what a user can mend, told in one message."""

from collections.abc import Sequence
from pathlib import Path

NAMED = 5  # so many names stand in a message


class DepalmError(Exception):
    """Something that a user can mend; the message says what is wrong, where, and what to do.

    A job that ends with one prints the message; any other exception is a bug, and keeps its
    traceback.
    """


class DamagedFile(DepalmError):  # noqa: N818
    """A file of the workflow's own that is not as it was written: `path`, and `why` one knows."""

    def __init__(self, path: Path | str, why: str):
        super().__init__(
            f"{path} is damaged: {why}; delete it, and give the same command again to have it anew"
        )
        self.path, self.why = Path(path), why


class BadJSON(DepalmError, ValueError):  # noqa: N818
    """A file that is not JSON: `why` one knows."""

    def __init__(self, path: Path | str, why: str):
        super().__init__(f"{path} is not JSON: {why}; correct it, or fetch it again")
        self.why = why


class AnnotationError(DepalmError):
    """Annotations that are missing or not in their format; the message names the file and row."""


def shortened(names: Sequence[str]) -> str:
    """The first of `names`, and how many more there are."""
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - NAMED} more" if len(distinct) > NAMED else ""
    return ", ".join(distinct[:NAMED]) + more
