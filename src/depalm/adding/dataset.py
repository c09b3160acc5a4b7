"""The file of a dataset, and its manifests, from a table with a row for each answer or caption."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depalm.adding.part import AddError, Part, part_name
from depalm.datasets import read_csv, read_jsonl
from depalm.errors import AnnotationError
from depalm.files import atomic_file
from depalm.parquet import read_parquet

# what columns are called, the likeliest first
MEDIA = ("media", "image", "image_path", "file_name", "filename", "file", "path", "video", "audio")
QUESTION = ("question", "query", "prompt")
TEXT = ("references", "reference", "answers", "answer", "captions", "caption", "label", "text")
SPLIT = ("split", "subset", "set")
TABLES = (".csv", ".jsonl", ".parquet", ".txt")  # .txt is CSV with a header
KINDS = {
    "image": (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    "audio": (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a"),
    "video": (".mp4", ".avi", ".mkv", ".webm", ".mov"),
}
TEST_SHARE = 0.2  # of the media, where the table has no splits
NAMES = {"validation": "val", "valid": "val", "dev": "val", "testing": "test", "training": "train"}


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are; None where there is no such column."""

    media: str
    text: str
    question: str | None
    split: str | None


def add_dataset(
    target: Path, config: Path, data: Path, name: str | None = None, force: bool = False
) -> tuple[Path, list[str]]:
    """Write the file of the dataset at `target` below `config`, and its manifests below `data`; the
    file's path, and what was found, in lines.

    `target` is a table (CSV, JSON lines, parquet), or the only one in a folder. Media lie beside
    it, or in one folder there. Rows of one medium and question are one sample. Without a column of
    splits, a fifth of the media are for testing, drawn by their names. Raises AddError.
    """
    table = _table(target)
    rows = _rows(table)
    columns = _columns(rows, table)
    media_root = _media_root(table.parent, [str(row[columns.media]) for row in rows])
    splits = _split(rows, columns)
    name = name or part_name(target.stem if target.is_file() else str(target))
    folder = data / name
    part = _part(table, name, folder, media_root, splits, columns)
    part.check(config, force)
    if folder.exists() and not force:
        raise AddError(f"{folder} is there already: give another --name, or --force")
    folder.mkdir(parents=True, exist_ok=True)
    for split, samples in splits.items():
        with atomic_file(folder / f"manifest.{split}.jsonl") as temporary:
            lines = (json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
            temporary.write_text("".join(lines), encoding="utf-8")
    return part.write(config, force), _told(columns, media_root, splits)


def _table(target: Path) -> Path:
    if target.is_file():
        return target
    found = sorted(path for path in target.glob("*") if path.suffix in TABLES)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise AddError(f"{target} must hold one table of {', '.join(TABLES)}, but holds {names}")
    return found[0]


def _rows(table: Path) -> list[dict[str, Any]]:
    try:
        if table.suffix == ".parquet":
            rows = read_parquet(table).to_pylist()
        else:
            rows = list(read_jsonl(table) if table.suffix == ".jsonl" else read_csv(table))
    except (AnnotationError, OSError, ValueError) as error:
        raise AddError(f"{table} cannot be read: {error}") from error
    if not rows:
        raise AddError(f"{table} has no rows")
    return rows


def _columns(rows: Sequence[Mapping[str, Any]], table: Path) -> Columns:
    there = {str(key).lower(): key for key in rows[0]}

    def find(names: Iterable[str]) -> str | None:
        return next((there[known] for known in names if known in there), None)

    media, text = find(MEDIA), find(TEXT)
    if media is None or text is None:
        what, names = ("media", MEDIA) if media is None else ("answers or captions", TEXT)
        raise AddError(
            f"{table} has the columns {', '.join(rows[0])}, none of which is that of the {what}: "
            f"call it one of {', '.join(names)}"
        )
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get(media), str):
            raise AddError(f"{table}, row {number} names no {media}: {dict(row)}")
    if not any(_texts(row.get(text)) for row in rows):  # of some, the manifest job lists the others
        raise AddError(f"{table}: {text} is empty in every row")
    return Columns(media, text, find(QUESTION), find(SPLIT))


def _texts(value: Any) -> list[str]:
    """The answers or captions of a field: a text, a list, or a list as JSON."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return [value]
    found = value if isinstance(value, list) else [value]
    return [str(text) for text in found if text is not None and str(text).strip()]


def _media_root(folder: Path, names: Sequence[str]) -> Path:
    """The folder beside the table in which most of some media are."""
    places = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    some = list(dict.fromkeys(names))[:50]
    found = Counter({place: sum((place / name).is_file() for name in some) for place in places})
    best, count = max(found.items(), key=lambda item: item[1])
    if not count:
        raise AddError(f"none of {', '.join(some[:3])}, ... is in {folder} or a folder there")
    return best


def _split(rows: Sequence[Mapping[str, Any]], columns: Columns) -> dict[str, list[dict[str, Any]]]:
    """The samples of each split, in the order of the table."""
    by_digest = sorted(
        {str(row[columns.media]) for row in rows},
        key=lambda name: hashlib.sha256(name.encode()).hexdigest(),
    )
    for_test = set(by_digest[: round(TEST_SHARE * len(by_digest))])
    samples: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        media = row[columns.media]
        question = str(row.get(columns.question) or "") if columns.question else ""
        if columns.split is None:
            split = "test" if media in for_test else "train"
        else:
            split = NAMES.get(str(row[columns.split]).lower(), str(row[columns.split]).lower())
        asked = {"question": question} if question else {}
        sample = samples.setdefault(
            (split, media, question), {"media": media, **asked, "references": []}
        )
        sample["references"] += _texts(row[columns.text])
    splits: dict[str, list[dict[str, Any]]] = {}
    for (split, _, _), sample in samples.items():
        splits.setdefault(split, []).append(sample)
    wrong = sorted(splits.keys() - {"train", "val", "test"})
    if wrong or not splits.keys() & {"val", "test"}:
        said = f"has the values {', '.join(wrong or splits)}" if columns.split else "is too small"
        raise AddError(
            f"the table {said}: splits are train, val and test, and one of the last two is needed"
        )
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}


def _part(
    table: Path,
    name: str,
    folder: Path,
    media_root: Path,
    splits: Mapping[str, Sequence[Mapping[str, Any]]],
    columns: Columns,
) -> Part:
    media = [sample["media"] for samples in splits.values() for sample in samples]
    suffixes = Counter(Path(one).suffix.lower() for one in media)
    counts = {kind: sum(suffixes[suffix] for suffix in known) for kind, known in KINDS.items()}
    modality = max(counts, key=lambda kind: counts[kind])
    if not counts[modality]:
        raise AddError(f"{', '.join(suffixes)} are no images, sounds or videos that are known")
    captions = columns.question is None
    sizes = {
        split: {"samples": len(samples), "media": len({sample["media"] for sample in samples})}
        for split, samples in splits.items()
    }
    template = "Describe the " + {"audio": "sound"}.get(modality, modality) + " briefly:\n"
    texts = [template] if captions else ["{question}\n\nAnswer:\n"]
    metrics = ["cider", "bleu_4", "meteor", "rouge_l"] if captions else ["vqa_accuracy"]
    entries: list[tuple[str, Any, str]] = [
        ("modality", modality, ", ".join(f"{suffixes[suffix]} {suffix}" for suffix in suffixes)),
        ("reader", "generic", "manifest.{split}.jsonl, a line for each sample"),
        ("root", str(folder), ""),
        ("media_root", str(media_root), "to which the paths of the manifests are relative"),
        ("splits", list(splits), "" if columns.split else "a fifth of the media, by their names"),
        ("test_split", "test" if "test" in splits else "val", ""),
        ("size", sizes, ""),
        ("templates", {"texts": texts}, "" if captions else "{question} stands for the question"),
        ("metrics", metrics, "the main one first"),
    ]
    return Part("dataset", name, [f"{'Captions' if captions else 'Questions'} of {table}"], entries)


def _told(columns: Columns, media_root: Path, splits: Mapping[str, Sequence[Any]]) -> list[str]:
    lines = [f"media: {columns.media}, below {media_root}", f"answers or captions: {columns.text}"]
    lines += [f"question: {columns.question}"] if columns.question else []
    for split, samples in splits.items():
        missing = sum(not (media_root / sample["media"]).is_file() for sample in samples)
        lost = f", {missing} of them without their file" if missing else ""
        lines.append(f"{split}: {len(samples)} samples{lost}")
    first = next(iter(splits.values()))[:3]
    return [*lines, *(json.dumps(sample, ensure_ascii=False) for sample in first)]
