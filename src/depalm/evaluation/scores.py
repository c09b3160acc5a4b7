"""From predictions to scores.json: the scores of a run, with what it was and what it cost."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from depalm.datasets.splits import Overlap
from depalm.errors import shortened
from depalm.evaluation.java import MetricError
from depalm.evaluation.metrics import References, require, score, unavailable
from depalm.progress import logger


def read_predictions(path: Path | str) -> dict[str, str]:
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
                raise MetricError(f"{path}, line {number}: a second prediction for {key}")
            predictions[key] = text
    return predictions


def evaluate(
    run: Mapping[str, Any],
    metrics: Sequence[str],
    references: References,
    predictions: Path | str,
    generated: Mapping[str, Any],
    trained: Mapping[str, Any],
    shared: Overlap | None = None,
) -> dict[str, Any]:
    """The content of scores.json for a run.

    `run` says what it was: dataset, split, fraction, backbone, llm, method, label, seed.
    `references` are those of the whole manifest; `generated` and `trained` are the summaries of
    generation and training; `shared` are the media that were trained on too. The first of `metrics`
    is the primary one. A metric that cannot run here is null, and `unavailable` says why. Raises
    MetricError unless exactly the samples that generation did not reject have a prediction.
    """
    require(metrics)
    texts = read_predictions(predictions)
    unknown = sorted(texts.keys() - references.keys())
    if unknown:
        raise MetricError(f"{predictions}: ids that the manifest lacks: {shortened(unknown)}")
    missing = [key for key in references if key not in texts]
    if len(missing) != generated["rejects"]:
        raise MetricError(
            f"{predictions}: {len(missing)} samples of the manifest have no prediction "
            f"({shortened(missing) or 'none'}), but generation rejected {generated['rejects']}: "
            "delete the predictions and generate again"
        )
    reasons = unavailable(metrics)
    for name, reason in reasons.items():
        logger.warning("%s: %s", name, reason)
    available = [name for name in metrics if name not in reasons]
    scores = score({key: references[key] for key in texts}, texts, available)
    logger.info("%s", ", ".join(f"{name} {value:.2f}" for name, value in scores.items()))
    if shared is not None and shared.both:
        here = shortened([name for _, name in shared.both])
        logger.warning(
            "%d of %d media stand in train too (%s)", len(shared.both), shared.total, here
        )
    return {
        **run,
        "metrics": {name: scores.get(name) for name in metrics},
        "primary_metric": metrics[0],
        **({"unavailable": reasons} if reasons else {}),
        "samples": len(texts),
        "rejects": len(missing),
        "train_rejects": trained["rejects"],
        "media_in_train": None if shared is None else len(shared.both),
        "trainable_parameters": trained["trainable_parameters"],
        "train_seconds": trained["train_seconds"],
        "generate_seconds": generated["generate_seconds"],
        "steps": trained["steps"],
        "train_dtype": trained.get("dtype"),
        "generate_dtype": generated.get("dtype"),
        "samples_seen": trained["samples_seen"],
        "device": trained["device"],
        "generate_device": generated["device"],
        "commit": trained["commit"],
        "config_sha256": trained["config_sha256"],
        "versions": trained["versions"],
    }
