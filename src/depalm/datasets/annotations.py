"""Annotation files: what a reader gives for a sample, and how JSON, JSON lines, CSV and folders of
media are read.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depalm.errors import AnnotationError
from depalm.files import parse_json


@dataclass(frozen=True)
class Annotation:
    """One annotated sample; its own `prompt`, if any, takes the place of the template.

    The types of question and answer are those that the dataset gives, if it does.
    """

    id: str
    media: str  # path of the image, clip or sound, relative to the dataset's root or media_root
    question: str  # empty for captioning
    references: list[str]  # right answers or captions, blank ones included
    prompt: str | None = None
    question_type: str = ""
    answer_type: str = ""


def read_json(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
        return parse_json(text)
    except (OSError, ValueError) as error:
        raise AnnotationError(f"{path} cannot be read: {error}") from error


def read_rows(path: Path, key: str | None = None) -> list[Any]:
    """The list that a JSON file is, or that it has under `key`."""
    content = read_json(path)
    rows = content if key is None else content.get(key) if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise AnnotationError(f"{path} {'is no list' if key is None else f'has no list {key!r}'}")
    return rows


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file with one on each line; blank lines do not count."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except ValueError as error:
                raise AnnotationError(f"{path}, line {number}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise AnnotationError(f"{path}, line {number}: not a JSON object")
            yield row


def read_csv(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a CSV file with a header; blank lines do not count.

    Raises AnnotationError with the line for a header that has a name twice, a quote that is not
    closed, and a row with more or fewer fields than the header.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows, first = csv.reader(stream, strict=True), 1
            header = next(rows, [])
            if twice := sorted({name for name in header if header.count(name) > 1}):
                raise AnnotationError(f"{path}, line 1: the header has {', '.join(twice)} twice")
            first = rows.line_num + 1
            for row in rows:
                if row and len(row) != len(header):
                    raise AnnotationError(
                        f"{path}, line {first}: {len(row)} fields, but the header has {len(header)}"
                    )
                if row:
                    yield dict(zip(header, row, strict=True))
                first = rows.line_num + 1
    except csv.Error as error:
        raise AnnotationError(f"{path}, line {first}: not CSV: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path} cannot be read: {error}") from error


def texts(rows: Sequence[Any], key: str, where: str) -> list[str]:
    """The text under `key` of each row."""
    found = [row[key] for row in rows if isinstance(row, dict) and isinstance(row.get(key), str)]
    if len(found) < len(rows):
        raise AnnotationError(f"{where} has one without a text {key!r}")
    return found


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def one_line(text: str) -> str:
    """A caption on one line: every run of white space, line breaks included, becomes a space."""
    return " ".join(text.split())


def find_media(root: Path, folders: Iterable[str], suffixes: Iterable[str]) -> dict[str, str]:
    """Path below `root` of every file directly in one of `folders`, by its name without suffix.

    Folders that do not exist hold nothing. Of files of one name that in the earlier folder counts,
    and in one folder that of the earlier suffix.
    """
    order = list(suffixes)
    found: dict[str, str] = {}
    for folder in folders:
        paths = (root / folder).iterdir() if (root / folder).is_dir() else ()
        known = [path for path in paths if path.suffix.lower() in order]
        for path in sorted(known, key=lambda path: (order.index(path.suffix.lower()), path.name)):
            found.setdefault(path.stem, f"{folder}/{path.name}")
    return found
