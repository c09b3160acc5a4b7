"""Metrics of generated text against its references, in the scale that the paper prints: times 100.

Captions are scored by the official programs (depalm.evaluation.programs). A configuration is
checked against the metrics' names alone.
"""

import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from depalm.errors import shortened
from depalm.evaluation.java import MetricError
from depalm.evaluation.measured import Measured, Predictions, References, Values
from depalm.evaluation.programs import (
    SPICE_MODELS,
    TOKENIZER_JAR,
    bleu,
    bleu_of,
    cider,
    meteor,
    meteor_of,
    rouge_l,
    spice,
    tokenize,
)
from depalm.evaluation.vqa_accuracy import aokvqa_accuracy, choice_accuracy, vqa_accuracy


@dataclass(frozen=True)
class Metric:
    """A metric: its name in tables, and how it is computed, from 0 to 1.

    compute: gives what it says of the samples, this metric as its `part`; however many metrics have
        it, it runs once. None for the mean of other metrics, `mean_of`.
    of_sums: the score [...] of sums [..., C] of the samples' counts; None if it is the mean of its
        samples.
    captions: whether it takes captions tokenized by `tokenize`, and so needs Java.
    models: files that it needs and that pycocoevalcap does not carry.
    """

    title: str
    compute: Callable[[References, Predictions], Measured] | None
    captions: bool = True
    models: tuple[Path, ...] = ()
    part: int = 0
    mean_of: tuple[str, ...] = ()
    of_sums: Callable[[Values], Values] | None = None


@dataclass(frozen=True)
class Score:
    """A metric in percent: of all samples, of each alone [N], and the counts [N, C] of each if the
    score is made of their sums.
    """

    value: float
    samples: Values
    counts: Values | None = None


def require(metrics: Collection[str]) -> None:
    """Raise MetricError if one of `metrics` is unknown, or needs Java and there is none."""
    unknown = sorted(set(metrics) - METRICS.keys())
    if unknown:
        raise MetricError(f"unknown metric {', '.join(unknown)}; known: {', '.join(METRICS)}")
    captions = [name for name in metrics if METRICS[name].captions]
    if captions and not TOKENIZER_JAR.is_file():
        raise MetricError(
            f"{', '.join(captions)}: pycocoevalcap is not installed, or without its Java programs; "
            "install depalm again with what it needs"
        )
    if captions and shutil.which("java") is None:
        raise MetricError(
            f"{', '.join(captions)}: caption metrics need Java, and no `java` is on the PATH. "
            "Install a Java runtime of version 8 or newer (Debian: default-jre-headless; conda: "
            "openjdk)"
        )


def unavailable(metrics: Collection[str]) -> dict[str, str]:
    """The metrics whose models are not installed, each with the reason.

    Nothing is downloaded.
    """
    return {
        name: f"needs {', '.join(missing)}, which pycocoevalcap does not carry; with internet "
        "access, `python -m pycocoevalcap.spice.get_stanford_models` installs them"
        for name in metrics
        if (missing := [path.name for path in METRICS[name].models if not path.is_file()])
    }


def score(
    references: References, predictions: Predictions, metrics: Collection[str]
) -> dict[str, float]:
    """The scores of all samples in percent; raises as `measure`."""
    return {name: found.value for name, found in measure(references, predictions, metrics).items()}


def measure(
    references: References, predictions: Predictions, metrics: Collection[str]
) -> dict[str, Score]:
    """Score predictions against the references of the same samples, in the order of `references`.

    Raises MetricError if a metric cannot run here, if the two have different ids, if a sample has
    no reference, or if there is no sample at all.
    """
    require(metrics)
    for name, reason in unavailable(metrics).items():
        raise MetricError(f"{name}: {reason}")
    different = sorted(references.keys() ^ predictions.keys())
    if different:
        raise MetricError(f"samples without prediction, or the other way: {shortened(different)}")
    if not references:
        raise MetricError("there is no prediction to score")
    bare = [key for key, texts in references.items() if not texts]
    if bare:
        raise MetricError(f"samples without any reference cannot be scored: {shortened(bare)}")
    raw = tokenized = (references, predictions)
    if any(METRICS[name].captions for name in metrics):
        tokenized = tokenize(references, predictions)
    computed: dict[Any, Measured] = {}

    def of(name: str) -> Score:
        metric = METRICS[name]
        if metric.compute is None:
            parts = [of(part) for part in metric.mean_of]
            samples = np.mean([part.samples for part in parts], axis=0)
            return Score(fmean(part.value for part in parts), samples)
        if metric.compute not in computed:
            computed[metric.compute] = metric.compute(*(tokenized if metric.captions else raw))
        found = computed[metric.compute]
        samples = 100 * found.samples[:, metric.part]
        return Score(100 * found.scores[metric.part], samples, found.counts)

    return {name: of(name) for name in metrics}


METRICS = {
    "vqa_accuracy": Metric("Accuracy", vqa_accuracy, captions=False),
    "aokvqa_accuracy": Metric("Accuracy", aokvqa_accuracy, captions=False),
    "choice_accuracy": Metric("Choices", choice_accuracy, captions=False),
    **{
        f"bleu_{n}": Metric(f"BLEU-{n}", bleu, part=n - 1, of_sums=partial(bleu_of, n))
        for n in (1, 2, 3, 4)
    },
    "meteor": Metric("METEOR", meteor, of_sums=meteor_of),
    "rouge_l": Metric("ROUGE-L", rouge_l),
    "cider": Metric("CIDEr", cider),
    "spice": Metric("SPICE", spice, models=SPICE_MODELS),
    # Liu et al. 2017
    "spider": Metric("SPIDEr", None, models=SPICE_MODELS, mean_of=("cider", "spice")),
}
