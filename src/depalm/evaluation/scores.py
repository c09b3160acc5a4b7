"""From texts to scores.json: the scores of a run, with what it was and what it cost."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from depalm.datasets.manifest import Sample
from depalm.datasets.splits import Overlap
from depalm.errors import shortened
from depalm.evaluation.java import MetricError
from depalm.evaluation.metrics import Score, measure, require, unavailable
from depalm.progress import logger


def read_texts(path: Path | str) -> dict[str, str]:
    """Read ``{"id": ..., "prediction": ...}`` lines: sample id -> generated text.

    Raises MetricError naming the line that is not such an object, or that repeats an id.
    """
    predictions: dict[str, str] = {}
    with Path(path).open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                row = json.loads(line)
                key, text = row["id"], row["prediction"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise MetricError(
                    f'{path}, line {number}: not {{"id": ..., "prediction": ...}}'
                ) from error
            if key in predictions:
                raise MetricError(f"{path}, line {number}: a second text for {key}")
            predictions[key] = text
    return predictions


class Evaluation(NamedTuple):
    """The content of scores.json, and the samples with a text and their scores by metric."""

    summary: dict[str, Any]
    samples: list[Sample]
    texts: dict[str, str]
    scores: dict[str, Score]


def evaluate(
    run: Mapping[str, Any],
    metrics: Sequence[str],
    manifest: Sequence[Sample],
    texts: Path | str,
    generated: Mapping[str, Any],
    trained: Mapping[str, Any],
    shared: Overlap | None = None,
) -> Evaluation:
    """Score the file `texts` of a run.

    `run` says what it was: dataset, split, fraction, backbone, llm, method, label, seed. `manifest`
    are all samples; `generated` and `trained` are the summaries of generation and training;
    `shared` are the media that were trained on too. The first of `metrics` is the primary one. A
    metric that cannot run here is null, and `unavailable` says why. Raises MetricError unless
    exactly the samples that generation did not reject have a text.
    """
    require(metrics)
    said = read_texts(texts)
    known = {sample.id for sample in manifest}
    if unknown := sorted(said.keys() - known):
        raise MetricError(f"{texts}: ids that the manifest lacks: {shortened(unknown)}")
    samples = [sample for sample in manifest if sample.id in said]
    missing = [sample.id for sample in manifest if sample.id not in said]
    if len(missing) != generated["rejects"]:
        raise MetricError(
            f"{texts}: {len(missing)} samples of the manifest have no prediction "
            f"({shortened(missing) or 'none'}), but generation rejected {generated['rejects']}: "
            "delete the file and generate again"
        )
    reasons = unavailable(metrics)
    for name, reason in reasons.items():
        logger.warning("%s: %s", name, reason)
    available = [name for name in metrics if name not in reasons]
    references = {sample.id: sample.references for sample in samples}
    scores = measure(references, said, available)
    logger.info("%s", ", ".join(f"{name} {found.value:.2f}" for name, found in scores.items()))
    if shared is not None and shared.both:
        here = shortened([name for _, name in shared.both])
        logger.warning(
            "%d of %d media stand in train too (%s)", len(shared.both), shared.total, here
        )
    values = {name: found.value for name, found in scores.items()}
    summary = {
        **run,
        "metrics": {name: values.get(name) for name in metrics},
        "primary_metric": metrics[0],
        **({"unavailable": reasons} if reasons else {}),
        "samples": len(samples),
        "rejects": len(missing),
        "train_rejects": trained["rejects"],
        "media_in_train": None if shared is None else len(shared.both),
        "trainable_parameters": trained["trainable_parameters"],
        "train_seconds": trained["train_seconds"],
        "generate_seconds": generated["generate_seconds"],
        "train_seconds_predicted": trained.get("expected", {}).get("seconds"),
        "generate_seconds_predicted": generated.get("expected", {}).get("seconds"),
        "steps": trained["steps"],
        "train_dtype": trained.get("dtype"),
        **({"tuned": trained["tuned"]} if "tuned" in trained else {}),
        "generate_dtype": generated.get("dtype"),
        "samples_seen": trained["samples_seen"],
        "device": trained["device"],
        "generate_device": generated["device"],
        "commit": trained["commit"],
        "config_sha256": trained["config_sha256"],
        "versions": trained["versions"],
    }
    return Evaluation(summary, samples, said, scores)
