"""Scores of runs, and of their samples, as the rule `score` writes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from depalm.datasets.manifest import Sample
from depalm.evaluation.metrics import Score
from depalm.evaluation.samples import SampleScores, sample_file, write_sample_scores
from depalm.files import write_json

LABELS = {"blind": "Blind", "limber_1": "LiMBeR(1)", "qp_l0": "DePALM QP,L0"}


def make_run(method: str, value: float | None, **changes: Any) -> dict[str, Any]:
    """The content of one scores.json."""
    metrics = {"vqa_accuracy": value}
    return {
        **{"dataset": "easy-vqa", "split": "test", "fraction": "100pct", "backbone": "dinov2-S"},
        **{"llm": "smollm2-135m", "method": method, "label": LABELS.get(method, method), "seed": 0},
        **{"metrics": metrics, "primary_metric": "vqa_accuracy", "samples": 10, "rejects": 0},
        **{"trainable_parameters": 1234567, "train_seconds": 100.0, "generate_seconds": 1.0},
        **{"steps": 10, "samples_seen": 320, "device": "a CPU", "commit": "c" * 40},
        **{"config_sha256": "f" * 64, "versions": {"torch": "2.9"}},
        **changes,
    }


def sampled(run: Mapping[str, Any]) -> SampleScores:
    """Scores of 400 samples around each value of a run: questions that are hard for all, and what
    its seed adds.
    """
    hard = np.random.default_rng(0).normal(0, 20, 400)
    scores = {}
    for name, value in run["metrics"].items():
        own = np.random.default_rng(run["seed"] + 1).normal(0, 5, 400)
        scores[name] = value + (hard - hard.mean()) + (own - own.mean())
    kinds = ["yes/no" if i % 4 else "other" for i in range(400)]
    types = {"answer_type": pa.array(kinds), "question_type": pa.array([""] * 400)}
    return SampleScores(pa.array([str(i) for i in range(400)]), types, scores, {})


def seeds_of(method: str, *values: float, **changes: Any) -> list[dict[str, Any]]:
    return [make_run(method, value, seed=seed, **changes) for seed, value in enumerate(values)]


def saved(folder: Path, runs: Sequence[dict[str, Any]]) -> list[Path]:
    """The runs with the scores of their samples, as the rule `score` writes them."""
    paths = [folder / f"{index}.scores.json" for index in range(len(runs))]
    for path, run in zip(paths, runs, strict=True):
        write_json(path, run)
        of = sampled(run)
        manifest = [Sample(key, "", "", []) for key in of.ids.to_pylist()]
        scores = {name: Score(0.0, values) for name, values in of.scores.items()}
        write_sample_scores(sample_file(path), manifest, scores)
    return paths
