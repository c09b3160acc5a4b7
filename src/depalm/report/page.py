"""The page of a report: one file with all but the media of its gallery, which lie beside it."""

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from depalm import __version__
from depalm.evaluation import (
    Run,
    Table,
    load_table,
    predicted_seconds,
    read_published,
    read_runs,
    to_html_table,
)
from depalm.files import atomic_file
from depalm.report.conclusions import conclusions
from depalm.report.gallery import Gallery, build_gallery, labelled
from depalm.report.plots import Plot, curves, plots_of
from depalm.specs import ReportPart


def write_report(
    parts: Sequence[ReportPart],
    media: Mapping[str, Mapping[str, str]],
    output: Path,
    folder: Path,
) -> None:
    """Write the page `output`, and to `folder` beside it the files that its gallery shows.

    `media` says of each dataset where its files lie (`folder`) and what they are (`modality`).
    Raises TableError.
    """
    found = [(part, read_runs(part.scores)) for part in parts]
    tables = [
        load_table(
            runs,
            part.table,
            None if part.published is None else read_published(part.published),
            part.missing,
        )
        for part, runs in found
    ]
    runs = {file: run for _, these in found for file, run in these.items()}
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    galleries = build_galleries(runs, media, fresh, folder.name)
    text = (
        _environment()
        .get_template("report.html.j2")
        .render(
            tables=[as_section(table) for table in tables],
            curves=training_curves(runs),
            galleries=galleries,
            about=overview(runs),
            cost=cost(runs),
            provenance=provenance(runs),
            version=__version__,
        )
    )
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    with atomic_file(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _environment() -> Environment:
    """Templates that escape all that comes from data."""
    return Environment(
        loader=PackageLoader("depalm.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def as_section(table: Table) -> dict[str, Any]:
    return {
        "title": table.spec.title,
        "table": Markup(to_html_table(table)),
        "notes": table.notes,
        "conclusions": conclusions(table),
        "plots": [as_figure(plot) for plot in plots_of(table)],
    }


def as_figure(plot: Plot) -> dict[str, Any]:
    return {"about": plot.about, "svg": Markup(plot.svg)}


def build_galleries(
    runs: Mapping[str, Run], media: Mapping[str, Mapping[str, str]], folder: Path, name: str
) -> list[Gallery]:
    """A gallery of each dataset."""
    found = []
    for number, dataset in enumerate(dict.fromkeys(run["dataset"] for run in runs.values())):
        of = {file: run for file, run in runs.items() if run["dataset"] == dataset}
        where = media[dataset]
        gallery = build_gallery(
            of, Path(where["folder"]), where["modality"], folder / str(number), name
        )
        if gallery is not None:
            found.append(gallery)
    return found


def training_curves(runs: Mapping[str, Run]) -> list[dict[str, Any]]:
    """The curves of each dataset, of those runs that were trained here."""
    found = []
    for dataset in dict.fromkeys(run["dataset"] for run in runs.values()):
        of = {file: run for file, run in runs.items() if run["dataset"] == dataset}
        fractions = {run["fraction"] for run in of.values()}
        logs = []
        for file, label in labelled(of).items():
            log = Path(file).parent / "train.jsonl"
            part = f" {of[file]['fraction'].replace('pct', '%')}" if len(fractions) > 1 else ""
            if log.is_file():
                lines = log.read_text(encoding="utf-8").splitlines()
                logs.append((label + part, [json.loads(line) for line in lines]))
        plot = curves(logs, dataset)
        if plot is not None:
            found.append(as_figure(plot))
    return found


def overview(runs: Mapping[str, Run]) -> dict[str, list[str]]:
    """What was compared, on what."""
    keys = {
        "Methods": "label",
        "Datasets": "dataset",
        "Backbones": "backbone",
        "LLMs": "llm",
        "Training data": "fraction",
        "Seeds": "seed",
    }
    return {
        title: list(dict.fromkeys(str(run[key]).replace("pct", "%") for run in runs.values()))
        for title, key in keys.items()
    }


def cost(runs: Mapping[str, Run]) -> list[dict[str, Any]]:
    """What each method took, over all its runs."""
    rows = []
    for label in dict.fromkeys(run["label"] for run in runs.values()):
        of = [run for run in runs.values() if run["label"] == label]
        counts = sorted({run["trainable_parameters"] for run in of})
        ends = dict.fromkeys((counts[0], counts[-1]))
        rows.append(
            {
                "label": label,
                "runs": len(of),
                "parameters": " to ".join(f"{count:,}" for count in ends),
                "train": seconds(of, "train"),
                "generate": seconds(of, "generate"),
            }
        )
    return rows


def seconds(runs: Sequence[Run], of: str) -> str:
    """What training or generation of runs took, and what was predicted of it, where it is known."""
    taken = f"{sum(run[f'{of}_seconds'] for run in runs):,.0f}"
    predicted = predicted_seconds(runs, of)
    return taken if predicted is None else f"{taken} (predicted {predicted * len(runs):,.0f})"


def provenance(runs: Mapping[str, Run]) -> dict[str, list[str]]:
    """Where the runs were made, each value with the number of runs."""
    parts: dict[str, Counter[str]] = {}
    for run in runs.values():
        told = {"Commit": run["commit"], "Device": run["device"], **run["versions"]}
        for key, value in told.items():
            parts.setdefault(key, Counter())[str(value)] += 1
    return {
        key: [value if n == len(runs) else f"{value} ({n} runs)" for value, n in counts.items()]
        for key, counts in parts.items()
    }
