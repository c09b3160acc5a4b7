"""The gallery of a report: samples with each method's answer side by side."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depalm.datasets import lowest
from depalm.evaluation import METRICS, Run
from depalm.files import read_checked, require_sha256
from depalm.media import write_preview
from depalm.rejects import MediaError

EACH = 24  # samples that are drawn at random, all right, all wrong, or disagreed about, at most
RIGHT = 50.0  # percent of an accuracy from which an answer counts as right


@dataclass(frozen=True)
class Answer:
    """What a method said of a sample, its score in percent (None if no metric could run), and
    whether that is a high one.
    """

    label: str
    text: str
    score: float | None
    right: bool


@dataclass(frozen=True)
class Card:
    """A sample: files that show it, below the folder of the page; why there are none; and what all
    were asked and said. `random`: it was drawn at random.
    """

    id: str
    modality: str
    files: list[str]
    fault: str
    prompt: str
    references: list[str]
    answers: list[Answer]
    random: bool


@dataclass(frozen=True)
class Gallery:
    """Samples of a dataset, of runs with one seed on one fraction.

    high: what a right answer is, in words.
    """

    dataset: str
    about: str
    high: str
    labels: list[str]
    cards: list[Card]


@dataclass(frozen=True)
class Shown:
    """A run of a gallery: its label, and the rows of its predictions by sample."""

    label: str
    rows: Mapping[str, Mapping[str, Any]]


def build_gallery(
    runs: Mapping[str, Run], media: Path, modality: str, target: Path, name: str
) -> Gallery | None:
    """The gallery of a dataset's runs, given by their scores.json; `media` is the folder of its
    files, and what shows them is written to `target`, whose parent the page knows as `name`. None
    if there is no run.

    All runs are of the largest fraction and the first seed that most rows have.
    """
    chosen = of_one_seed(runs)
    if not chosen:
        return None
    first = next(iter(chosen.values()))
    shown = [Shown(label, read(file)) for file, label in labelled(chosen).items()]
    common = [key for key in shown[0].rows if all(key in run.rows for run in shown)]
    metric = first["primary_metric"]
    least = {run.label: threshold(metric, run, common) for run in shown}
    right = {
        key: [is_right(run.rows[key]["score"], least[run.label]) for run in shown] for key in common
    }
    drawn = set(lowest(common, min(EACH, len(common)), salt="gallery"))
    cards = []
    for number, key in enumerate(picked(right, drawn)):
        row = shown[0].rows[key]
        files, fault = previews(media / row["media"], modality, target / str(number))
        places = [f"{name}/{target.name}/{file}" for file in files]
        said = zip(shown, right[key], strict=True)
        answers = [answer_of(run, key, good) for run, good in said]
        texts = (row["prompt"], row["references"])
        cards.append(Card(key, modality, places, fault, *texts, answers, key in drawn))
    fraction = first["fraction"].replace("pct", "%")
    about = f"{first['split']}, trained on {fraction}, seed {first['seed']}"
    return Gallery(first["dataset"], about, in_words(metric), [run.label for run in shown], cards)


def answer_of(run: Shown, key: str, right: bool) -> Answer:
    row = run.rows[key]
    return Answer(run.label, row["prediction"], row["score"], right)


def of_one_seed(runs: Mapping[str, Run]) -> dict[str, Run]:
    """The runs of the largest fraction and, of its seeds, the lowest that most rows have."""
    if not runs:
        return {}
    largest = max((run["fraction"] for run in runs.values()), key=_percent)
    kept = {file: run for file, run in runs.items() if run["fraction"] == largest}
    seeds = [run["seed"] for run in kept.values()]
    seed = max(sorted(set(seeds)), key=seeds.count)
    return {file: run for file, run in kept.items() if run["seed"] == seed}


def labelled(runs: Mapping[str, Run]) -> dict[str, str]:
    """A label for each run: its method, and the models where they vary."""
    varied = [key for key in ("backbone", "llm") if len({run[key] for run in runs.values()}) > 1]
    return {
        file: " + ".join([str(run["label"]), *(str(run[key]) for key in varied)])
        for file, run in runs.items()
    }


def read(scores: str) -> dict[str, dict[str, Any]]:
    """The predictions that lie beside a scores.json, by sample."""
    path = Path(scores.replace("scores.json", "predictions.jsonl"))
    require_sha256(path, read_checked(scores).get("predictions_sha256"))
    with path.open(encoding="utf-8") as stream:
        return {row["id"]: row for row in map(json.loads, stream)}


def threshold(metric: str, run: Shown, common: Sequence[str]) -> float:
    """The score from which an answer counts as right: half of an accuracy; of other metrics, the
    median of the run's samples.
    """
    if not METRICS[metric].captions:
        return RIGHT
    return sorted(run.rows[key]["score"] or 0.0 for key in common)[len(common) // 2]


def is_right(score: float | None, least: float) -> bool:
    return score is not None and score >= least


def in_words(metric: str) -> str:
    if not METRICS[metric].captions:
        return f"right: a score of {RIGHT:.0f} or more"
    return f"right: {METRICS[metric].title} not below the median of the method's samples"


def picked(right: Mapping[str, Sequence[bool]], drawn: set[str]) -> list[str]:
    """Samples drawn at random, and of those about which methods disagree, that all have right and
    that all have wrong, as many each; in an order that follows from their ids.
    """
    kinds: list[list[str]] = [[], [], []]
    for key, answers in right.items():
        kinds[0 if len(set(answers)) > 1 else 1 if answers[0] else 2].append(key)
    chosen = set(drawn)
    for keys in kinds:
        chosen |= set(lowest(keys, min(EACH, len(keys)), salt="gallery"))
    order = lowest(list(right), len(right), salt="gallery")
    return [key for key in order if key in chosen]


def previews(source: Path, modality: str, target: Path) -> tuple[list[str], str]:
    """The names of the files that show a medium, or why there are none."""
    try:
        return [path.name for path in write_preview(source, modality, target)], ""
    except MediaError as error:
        return [], str(error)


def _percent(fraction: str) -> float:
    return float(fraction.removesuffix("pct"))
