"""The scores of runs, and those that somebody published, as files hold them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from depalm.datasets.annotations import read_csv
from depalm.errors import DepalmError
from depalm.files import read_checked

Run = Mapping[str, Any]  # the content of one scores.json
Published = Mapping[tuple[str, ...], float]  # by method, dataset, fraction and metric
IDENTITY = ("dataset", "split", "fraction", "backbone", "llm", "method", "seed")
FILTERED = ("dataset", "fraction", "backbone", "llm", "method")  # by lists named in the plural


class TableError(DepalmError):
    """Scores that do not make a table: contradictory, incomplete, or none that was asked for."""


def read_runs(paths: Iterable[Path | str]) -> dict[str, Run]:
    """Read scores.json files: the runs by their files; a run that is given twice counts once.

    Raises TableError if one says nothing of its run, or if two differ about the same run.
    """
    runs: dict[tuple[Any, ...], tuple[Path | str, Run]] = {}
    for path in paths:
        run = read_checked(path)
        lacking = [key for key in IDENTITY if key not in run]
        if lacking:
            raise TableError(f"{path} has no {', '.join(lacking)}: not a scores.json of depalm")
        first, known = runs.setdefault(tuple(run[key] for key in IDENTITY), (path, run))
        if known != run:
            raise TableError(f"{first} and {path} are different scores of the same run")
    return {str(path): run for path, run in runs.values()}


def read_published(path: Path | str) -> Published:
    """Scores that somebody published: a CSV of method, dataset, fraction, metric, mean.

    Raises AnnotationError if it cannot be read, TableError if a column is missing or a row given
    twice.
    """
    keys = ("method", "dataset", "fraction", "metric")
    published: dict[tuple[str, ...], float] = {}
    for number, row in enumerate(read_csv(Path(path)), start=2):
        try:
            cell, mean = tuple(row[key] for key in keys), float(row["mean"])
        except (KeyError, ValueError) as error:
            raise TableError(
                f"{path}, line {number}: not {', '.join(keys)}, mean (a number): {error}"
            ) from error
        if cell in published:
            raise TableError(f"{path}, line {number}: a second row of {' '.join(cell)}")
        published[cell] = mean
    return published


def ordered(found: Iterable[str], wanted: Sequence[str] | None = None) -> list[str]:
    """The different ones of `found`, in the order of `wanted`, or else as they come."""
    different = dict.fromkeys(found)
    return list(different) if not wanted else [name for name in wanted if name in different]


def predicted_seconds(runs: Sequence[Run], of: str = "train") -> float | None:
    """The mean of what was predicted of the runs' training (or generation) before it ran; None if
    that is not known of all.
    """
    predicted = [run.get(f"{of}_seconds_predicted") for run in runs]
    known = [float(value) for value in predicted if value is not None]
    return fmean(known) if known and len(known) == len(runs) else None
