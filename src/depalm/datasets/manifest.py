"""Manifests: what a split consists of, one row per sample, from the datasets' own annotations."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from depalm.datasets.annotations import Annotation
from depalm.datasets.media_names import MISSING, MediaFinder
from depalm.datasets.readers import READERS
from depalm.datasets.subsets import ManifestError, lowest
from depalm.datasets.watched import Files, look
from depalm.parquet import read_parquet, write_parquet
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
    sha256: str = ""  # of the media file, as 64 hexadecimal digits
    question_type: str = ""  # empty for captions
    answer_type: str = ""


SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("media", pa.string()),
        ("prompt", pa.string()),
        ("references", pa.list_(pa.string())),
        ("sha256", pa.string()),
        ("question_type", pa.string()),
        ("answer_type", pa.string()),
    ]
)


class Manifest(NamedTuple):
    """The samples of a split, what was left out of it, and the files that it was made of."""

    samples: list[Sample]
    rejects: list[Reject]
    files: Files


def build_manifest(
    root: Path,
    dataset: RowsSpec,
    split: str,
    max_rows: int | float | None = None,
    max_reject_fraction: float = 0.0,
    known: Files | None = None,
) -> Manifest:
    """The manifest of a split of `dataset` (config/datasets/*.yaml), read under `root`.

    The media lie under `root` too, or under the dataset's `media_root`. All of them are read, for
    their SHA-256, but for those that are as an earlier manifest of this dataset has `known` them.

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
    reader = READERS[dataset.reader]
    told = (dataset.columns,) if reader.takes_columns else ()
    annotations = list(reader.read(root, split, *told))
    _check_texts(annotations, f"{root}, split {split}")
    _check_ids([row.id for row in annotations], f"{root}, split {split}")
    rows = _limit(annotations, max_rows)
    folders = folders_of(root, dataset.media_root)
    find = MediaFinder(folders["media"], dataset.media_root is not None, reader.folders).find
    named = [media for media, fault in (find(row.media) for row in rows) if fault in ("", MISSING)]
    media = look([("media", name) for name in dict.fromkeys(named)], folders, known or {})
    outcomes = [
        _sample(row, choose_template(dataset.templates, row.id), find, media) for row in rows
    ]
    samples = [outcome for outcome in outcomes if isinstance(outcome, Sample)]
    rejects = [outcome for outcome in outcomes if isinstance(outcome, Reject)]
    if blank := sum(len(row.references) - len(_references(row)) for row in rows):
        logger.warning("%s: %d blank captions left out", split, blank)
    check_rejects(rejects, len(rows), max_reject_fraction, f"manifest of {split}")
    report_rejects(rejects, len(rows), f"manifest of {split}")
    if not samples:
        raise ManifestError(f"{root}: the split {split} has no samples")
    logger.info("%s: %d samples, %d media files", split, len(samples), len(unique_media(samples)))
    names = [name.format(split=split) for name in reader.files]
    noted = [("annotations", name) for pattern in names for name in _named(root, pattern)]
    return Manifest(samples, rejects, {**look(noted, folders, {}), **media})


def _named(root: Path, pattern: str) -> list[str]:
    """The files that a pattern of a reader's names, below the root."""
    if "*" not in pattern:
        return [pattern]
    return sorted(path.relative_to(root).as_posix() for path in root.glob(pattern))


def folders_of(root: Path | str, media_root: Path | str | None) -> dict[str, Path]:
    """The folders that a manifest's files lie in."""
    return {"annotations": Path(root), "media": Path(root if media_root is None else media_root)}


def _sample(
    row: Annotation, template: str, find: Callable[[str], tuple[str, str]], files: Files
) -> Sample | Reject:
    references = _references(row)
    if row.prompt is None and "{question}" in template and not row.question.strip():
        return Reject(row.id, row.media, "blank question")
    if not any(reference.strip() for reference in references):
        reason = "no reference but blank ones" if row.references else "no reference"
        return Reject(row.id, row.media, reason)
    media, fault = find(row.media)
    if fault or not files["media", media].sha256:
        return Reject(row.id, row.media, fault or "the medium cannot be read")
    prompt = template.replace("{question}", row.question) if row.prompt is None else row.prompt
    sha256 = files["media", media].sha256
    return Sample(row.id, media, prompt, references, sha256, *types_of(row))


def types_of(row: Annotation) -> tuple[str, str]:
    """The types of a sample's question and answer: those that the dataset gives; or else the first
    two words of the question, and by the most frequent answer yes/no, number or other, as VQA sorts
    its own (Antol et al. 2015). Both are empty for a caption.
    """
    if not row.question:
        return "", ""
    words = re.findall(r"[\w']+", row.question.lower())
    common = Counter(text.strip().lower() for text in row.references).most_common(1)[0][0]
    number = re.fullmatch(r"[\d.,]+", common) is not None
    kind = "yes/no" if common in ("yes", "no") else "number" if number else "other"
    return row.question_type or " ".join(words[:2]), row.answer_type or kind


def _references(row: Annotation) -> list[str]:
    return [text for text in row.references if row.question or text.strip()]


def choose_template(templates: Templates, name: str) -> str:
    """The template (see config/datasets/*.yaml) of the sample `name`: of its `texts` the first, the
    one at the index that `selection` is, or, if it is `random`, one drawn by `seed` and the name.
    """
    if templates.selection == "random":
        digest = hashlib.sha256(f"{templates.seed}:{name}".encode()).digest()
        return templates.texts[int.from_bytes(digest) % len(templates.texts)]
    return templates.default


def _check_ids(ids: Sequence[str], where: str) -> None:
    """Ids are lines of subset files, so they are unique and hold no line break."""
    seen: set[str] = set()
    for name in ids:
        if name in seen or name.splitlines() != [name]:
            raise ManifestError(
                f"{where}: the id {name!r} occurs twice, is empty, or breaks a line"
            )
        seen.add(name)


def _check_texts(rows: Sequence[Annotation], where: str) -> None:
    """Texts are Unicode: JSON can write half of a character, which no file can hold."""
    for row in rows:
        texts = (row.id, row.media, row.question, row.prompt or "", *row.references)
        try:
            "".join(texts).encode()
        except UnicodeEncodeError as error:
            bad = next(text for text in texts if any("\ud800" <= c <= "\udfff" for c in text))
            raise ManifestError(
                f"{where}: {bad!a:.100} of the sample {row.id!a} is not Unicode: it has half of a "
                "character (a lone surrogate)"
            ) from error


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
    write_parquet(path, table)


def read_manifest(path: Path | str) -> list[Sample]:
    """Raises ManifestError if `path` is not a manifest, DamagedFile if it was one."""
    try:
        table = read_parquet(path)
        for field in SCHEMA:
            if field.name.endswith("_type") and field.name not in table.column_names:
                table = table.append_column(field, pa.array([""] * len(table)))  # as of version 1
        table = table.cast(SCHEMA)
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path} is not a manifest: {error}") from error
    return [Sample(**row) for row in table.to_pylist()]


def unique_media(samples: Sequence[Sample]) -> list[str]:
    """The media of the samples, each once, in order."""
    return list(dict.fromkeys(sample.media for sample in samples))


def media_keys(samples: Sequence[Sample]) -> dict[str, str]:
    """The SHA-256 of each of the samples' media, by name, in order: the keys of the token store."""
    return {sample.media: sample.sha256 for sample in samples}
