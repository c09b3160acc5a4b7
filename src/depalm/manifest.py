"""Manifests: what a split consists of, one row per sample, from the datasets' own annotations."""

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from depalm.files import atomic_file
from depalm.progress import logger
from depalm.rejects import Reject, check_rejects, report_rejects


class ManifestError(ValueError):
    """Annotations that are not in their format, or a split, fraction or manifest that cannot be."""


@dataclass(frozen=True)
class Sample:
    """One row of a manifest; several samples may share their media."""

    id: str
    media: str  # path of the image, clip or sound, relative to the dataset's root
    prompt: str  # text in front of the answer
    references: list[str]  # right answers or captions


@dataclass(frozen=True)
class Annotation:
    """What a dataset says of one sample; a `prompt` of its own takes the place of the template."""

    id: str
    media: str
    question: str  # empty for captioning
    references: list[str]
    prompt: str | None = None


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
    dataset: Mapping[str, Any],
    split: str,
    max_rows: int | float | None = None,
    max_reject_fraction: float = 0.0,
) -> tuple[list[Sample], list[Reject]]:
    """The samples of a split of `dataset` (config/datasets/*.yaml), read under `root`, and rejects.

    `max_rows` keeps so many rows (an integer) or that part of them (a fraction below 1): always the
    same ones, spread over the split, and among those of any larger `max_rows`. Rejected are rows
    without media on disk, with blank references only, or with a blank question that the template
    needs; other blank references are left out. Raises ManifestError for annotations that are not in
    their format, and RejectError if more than `max_reject_fraction` of the rows are rejected.
    """
    if split not in dataset["splits"]:
        raise ManifestError(f"no split {split!r}; there are: {dataset['splits']}")
    annotations = list(READERS[dataset["reader"]](root, split))
    _check_ids([row.id for row in annotations], f"{root}, split {split}")
    rows = _limit(annotations, max_rows)
    is_file = cache(lambda media: (root / media).is_file())
    outcomes = [_sample(row, dataset["template"], is_file) for row in rows]
    samples = [outcome for outcome in outcomes if isinstance(outcome, Sample)]
    rejects = [outcome for outcome in outcomes if isinstance(outcome, Reject)]
    blank = sum(not reference.strip() for row in rows for reference in row.references)
    if blank:
        logger.warning("%s: %d blank references left out", split, blank)
    check_rejects(rejects, len(rows), max_reject_fraction, f"manifest of {split}")
    report_rejects(rejects, len(rows), f"manifest of {split}")
    if not samples:
        raise ManifestError(f"{root}: the split {split} has no samples")
    logger.info("%s: %d samples, %d media files", split, len(samples), len(unique_media(samples)))
    return samples, rejects


def _sample(row: Annotation, template: str, is_file: Callable[[str], bool]) -> Sample | Reject:
    references = [reference for reference in row.references if reference.strip()]
    if row.prompt is None and "{question}" in template and not row.question.strip():
        return Reject(row.id, row.media, "blank question")
    if not references:
        return Reject(row.id, row.media, "no reference but blank ones")
    if not is_file(row.media):
        return Reject(row.id, row.media, "no such media file")
    prompt = template.replace("{question}", row.question) if row.prompt is None else row.prompt
    return Sample(row.id, row.media, prompt, references)


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
    kept = set(_lowest([row.id for row in rows], count, salt=""))
    return [row for row in rows if row.id in kept]


def _lowest(ids: Sequence[str], count: int, salt: str) -> list[str]:
    """The `count` ids of lowest salted SHA-256: a random draw that depends on nothing else."""
    return sorted(ids, key=lambda name: hashlib.sha256(f"{salt}{name}".encode()).digest())[:count]


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


def parse_fraction(text: str) -> Fraction:
    """``10pct`` -> 1/10. Raises ManifestError unless it is a percentage over 0, at most 100."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)pct", text)
    fraction = Fraction(match[1]) / 100 if match else Fraction(0)
    if not 0 < fraction <= 1:
        raise ManifestError(
            f"{text!r} is not a fraction: write a percentage over 0 and up to 100, "
            "such as 100pct, 10pct, 1pct or 0.5pct"
        )
    return fraction


def draw_subset(ids: Sequence[str], fraction: str, seed: int) -> list[str]:
    """The `fraction` (see parse_fraction) of `ids` that `seed` draws, at least one, in their order.

    A smaller fraction of a seed lies within a larger one, whatever the order of `ids` is.
    """
    count = max(1, round(parse_fraction(fraction) * len(ids)))
    kept = set(_lowest(ids, count, salt=f"{seed}:"))
    return [name for name in ids if name in kept]


def read_easy_vqa(root: Path, split: str) -> Iterator[Annotation]:
    """easy-VQA 1.0 (package `easy-vqa`, folder data).

    {split}/questions.json is a list of [question, answer, image number], and the images are
    {split}/images/{number}.png.
    """
    path = root / split / "questions.json"
    for number, row in enumerate(_read_json(path)):
        match row:
            case [str(question), str(answer), int(image)]:
                media = f"{split}/images/{image}.png"
                yield Annotation(f"{split}-{number}", media, question, [answer])
            case _:
                raise ManifestError(f"{path}: row {number} is not [question, answer, image]")


def read_generic(root: Path, split: str) -> Iterator[Annotation]:
    """A user's own samples: manifest.{split}.jsonl (one object a line) or manifest.{split}.csv.

    Fields: `media` (path relative to the root); `question` (goes into the template) or `prompt`
    (used as it is), neither for captioning; `reference` (one text) or `references` (a list; in CSV
    a JSON list); `id`, by default the split and the number of the row.
    """
    path = next(
        (p for suffix in ("jsonl", "csv") if (p := root / f"manifest.{split}.{suffix}").is_file()),
        None,
    )
    if path is None:
        raise ManifestError(f"{root} holds neither manifest.{split}.jsonl nor manifest.{split}.csv")
    rows = _read_jsonl(path) if path.suffix == ".jsonl" else _read_csv(path)
    for number, row in enumerate(rows):
        yield _generic_row(row, f"{split}-{number}", f"{path}: row {number}")


def _generic_row(row: Mapping[str, Any], name: str, where: str) -> Annotation:
    unknown = row.keys() - GENERIC_FIELDS
    references = [row["reference"]] if "reference" in row else row.get("references")
    texts = [row.get("media"), *(row[key] for key in ("id", "question", "prompt") if key in row)]
    if unknown:
        raise ManifestError(f"{where} has {sorted(unknown)}; fields are {sorted(GENERIC_FIELDS)}")
    if {"reference", "references"} <= row.keys() or {"question", "prompt"} <= row.keys():
        raise ManifestError(f"{where} has two of which only one is allowed: {sorted(row)}")
    if not isinstance(references, list) or not all(
        isinstance(r, str) for r in (*texts, *references)
    ):
        raise ManifestError(
            f"{where}: media and reference(s) are needed; references is a list of texts, and all "
            "other fields are texts"
        )
    return Annotation(
        row.get("id", name), row["media"], row.get("question", ""), references, row.get("prompt")
    )


def _read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ManifestError(f"{path}, line {number}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ManifestError(f"{path}, line {number}: not a JSON object")
            yield row


def _read_csv(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        for row in csv.DictReader(stream, restkey="", restval=""):
            if "references" in row:
                try:
                    row["references"] = json.loads(row["references"])
                except json.JSONDecodeError as error:
                    raise ManifestError(
                        f"{path}: references must be a JSON list, not {row['references']!r}; "
                        "name the column `reference` if it is one text"
                    ) from error
            yield row


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path} cannot be read: {error}") from error


GENERIC_FIELDS = {"id", "media", "question", "prompt", "reference", "references"}
READERS: dict[str, Callable[[Path, str], Iterator[Annotation]]] = {
    "easy_vqa": read_easy_vqa,
    "generic": read_generic,
}
