"""Manifests: what a split consists of, one row per sample, from the datasets' own annotations."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from depalm.datasets.annotations import Annotation
from depalm.datasets.readers import READERS
from depalm.datasets.subsets import ManifestError, lowest
from depalm.files import OutsideError, atomic_file, inside
from depalm.progress import logger
from depalm.rejects import Reject, check_rejects, report_rejects
from depalm.specs.dataset import RowsSpec, Templates


@dataclass(frozen=True)
class Sample:
    """One row of a manifest; several samples may share their media."""

    id: str
    media: str  # path of the image, clip or sound, relative to the folder of the media
    prompt: str  # text in front of the answer
    references: list[str]  # right answers or captions


SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("media", pa.string()),
        ("prompt", pa.string()),
        ("references", pa.list_(pa.string())),
    ]
)


def build_manifest(
    root: Path,
    dataset: RowsSpec,
    split: str,
    max_rows: int | float | None = None,
    max_reject_fraction: float = 0.0,
) -> tuple[list[Sample], list[Reject]]:
    """The samples of a split of `dataset` (config/datasets/*.yaml), read under `root`, and rejects.

    The media lie under `root` too, or under the dataset's `media_root`.

    `max_rows` keeps so many rows (an integer) or that part of them (a fraction below 1): always the
    same ones, spread over the split, and among those of any larger `max_rows`. Rejected are rows
    whose media are named outside of that folder or are not on disk, without references or with
    blank ones only, or with a blank question that the template needs. Beside others a blank caption
    is left out, but a blank answer stays: the accuracy of answers counts what all humans gave.
    Raises AnnotationError for annotations that are not in their format, ManifestError for a split
    without samples or with invalid ids, and RejectError if more than
    `max_reject_fraction` of the rows are rejected.
    """
    if split not in dataset.splits:
        raise ManifestError(f"no split {split!r}; there are: {dataset.splits}")
    annotations = list(READERS[dataset.reader].read(root, split))
    _check_ids([row.id for row in annotations], f"{root}, split {split}")
    rows = _limit(annotations, max_rows)
    find = cache(partial(_find_media, root, dataset.media_root))
    outcomes = [_sample(row, choose_template(dataset.templates, row.id), find) for row in rows]
    samples = [outcome for outcome in outcomes if isinstance(outcome, Sample)]
    rejects = [outcome for outcome in outcomes if isinstance(outcome, Reject)]
    if blank := sum(len(row.references) - len(_references(row)) for row in rows):
        logger.warning("%s: %d blank captions left out", split, blank)
    check_rejects(rejects, len(rows), max_reject_fraction, f"manifest of {split}")
    report_rejects(rejects, len(rows), f"manifest of {split}")
    if not samples:
        raise ManifestError(f"{root}: the split {split} has no samples")
    logger.info("%s: %d samples, %d media files", split, len(samples), len(unique_media(samples)))
    return samples, rejects


def _find_media(root: Path, media_root: str | None, media: str) -> tuple[str, str]:
    """The name of a media file below its folder, and what is wrong with it, if anything.

    An absolute path will do if the dataset has a `media_root` and the file is named below it.
    """
    path = Path(media)
    if media_root is not None and path.is_relative_to(media_root) and path != Path(media_root):
        media = path.relative_to(media_root).as_posix()
    try:
        found = inside(root if media_root is None else media_root, media)
    except OutsideError as error:
        return media, f"its media path {error.reason}"
    return media, "" if found.is_file() else "no such media file"


def _sample(
    row: Annotation, template: str, find: Callable[[str], tuple[str, str]]
) -> Sample | Reject:
    references = _references(row)
    if row.prompt is None and "{question}" in template and not row.question.strip():
        return Reject(row.id, row.media, "blank question")
    if not any(reference.strip() for reference in references):
        reason = "no reference but blank ones" if row.references else "no reference"
        return Reject(row.id, row.media, reason)
    media, fault = find(row.media)
    if fault:
        return Reject(row.id, row.media, fault)
    prompt = template.replace("{question}", row.question) if row.prompt is None else row.prompt
    return Sample(row.id, media, prompt, references)


def _references(row: Annotation) -> list[str]:
    return [text for text in row.references if row.question or text.strip()]


def choose_template(templates: Templates, name: str) -> str:
    """The template (see config/datasets/*.yaml) of the sample `name`: of its `texts` the first, the
    one at the index that `selection` is, or, if it is `random`, one drawn by `seed` and the name.
    """
    texts, selection = templates.texts, templates.selection
    if selection == "random":
        digest = hashlib.sha256(f"{templates.seed}:{name}".encode()).digest()
        return texts[int.from_bytes(digest) % len(texts)]
    return texts[0 if selection == "first" else selection]


def _check_ids(ids: Sequence[str], where: str) -> None:
    """Ids are lines of subset files, so they are unique and hold no line break."""
    seen: set[str] = set()
    for name in ids:
        if name in seen or name.splitlines() != [name]:
            raise ManifestError(
                f"{where}: the id {name!r} occurs twice, is empty, or breaks a line"
            )
        seen.add(name)


def _limit(rows: list[Annotation], max_rows: int | float | None) -> list[Annotation]:
    if max_rows is None:
        return rows
    count = max_rows if isinstance(max_rows, int) else max(1, round(max_rows * len(rows)))
    kept = set(lowest([row.id for row in rows], count, salt=""))
    return [row for row in rows if row.id in kept]


def write_manifest(path: Path | str, samples: Sequence[Sample]) -> None:
    """Write samples as parquet (columns: the fields of Sample); the same samples give the same
    bytes.
    """
    table = pa.Table.from_pylist([asdict(sample) for sample in samples], schema=SCHEMA)
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary)


def read_manifest(path: Path | str) -> list[Sample]:
    """Raises ManifestError if `path` is not a manifest."""
    try:
        table = pq.read_table(path).cast(SCHEMA)
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path} is not a manifest: {error}") from error
    return [Sample(**row) for row in table.to_pylist()]


def unique_media(samples: Sequence[Sample]) -> list[str]:
    """The media of the samples, each once, in order: the rows of a cache."""
    return list(dict.fromkeys(sample.media for sample in samples))
