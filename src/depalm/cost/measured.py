"""What jobs of a configuration have taken: what they recorded, and Snakemake's benchmark files."""

import csv
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from depalm.adapters.record import RECORD
from depalm.config import paths
from depalm.config.experiment import Config
from depalm.config.store_plan import StorePlan
from depalm.cost.rates import START, Measured
from depalm.cost.work import backbone_work
from depalm.errors import DamagedFile
from depalm.files import read_checked


def measured(config: Config, device: str) -> Iterator[Measured]:
    """The jobs of a configuration that have run on a device, cpu or gpu, and what they took."""
    yield from _extractions(config, device)
    for run in config.runs:
        plan, values = config.plan(run), {**asdict(run)}
        key = (run.llm, run.backbone, run.method, run.dataset)
        if plan.checkpoint is None:
            training = _read(Path(run.path, RECORD)).get("training", {})
            file = Path(paths.BENCHMARK_TRAIN.format(**values))
            yield from _job(("train", *key), training, training.get("train_seconds"), file, device)
            if plan.tuned_file:
                tuned = _read(Path(plan.tuned_file[0]))
                spent, file = tuned.get("spent", {}), Path(paths.BENCHMARK_TUNE.format(**values))
                yield from _job(("train", *key), tuned, spent.get("seconds"), file, device)
        split = plan.dataset.test_split
        summary = _read(Path(run.path, f"{split}.generate.json"))
        file = Path(paths.BENCHMARK_GENERATE.format(**values, split=split))
        yield from _job(("generate", *key), summary, summary.get("generate_seconds"), file, device)


def _job(
    key: tuple[str, ...], told: dict[str, Any], seconds: float | None, file: Path, device: str
) -> Iterator[Measured]:
    """A job on the models of a run. The benchmark file of one that was killed and resumed, or that
    found its work done, is of its last start alone, and says nothing.
    """
    operations = told.get("expected", {}).get("operations")
    if seconds is None or operations is None or device_of(told) != device:
        return
    whole = _seconds(file) or 0.0
    yield Measured(key, operations, seconds, whole - seconds if whole > seconds else None)


def _extractions(config: Config, device: str) -> Iterator[Measured]:
    """Extractions, whose reports count the files that went through the backbone."""
    for place in StorePlan(config).caches():
        spec = config.parts.backbone(place["backbone"])
        folder = Path(paths.EXTRACTIONS.format(**place))
        for report in folder.glob("*/*.json"):
            shard, _, shards = report.stem.partition("-of-")
            names = {**place, "layers": report.parent.name, "shard": shard, "shards": shards}
            taken = _seconds(Path(paths.BENCHMARK_EXTRACT.format(**names)))
            told = _read(report)
            # files that the store had already cost nothing
            if taken and told.get("new") and device_of(told) == device:
                operations = told["new"] * backbone_work(spec.shape)
                key = ("extract", spec.modality, place["backbone"])
                yield Measured(key, operations, max(taken - START, taken / 10))


def device_of(told: dict[str, Any]) -> str:
    """The kind of device that a record names, cpu or gpu."""
    return "cpu" if " CPU, " in str(told.get("device")) else "gpu"


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty if it cannot be read, for an estimate goes on without it."""
    try:
        return read_checked(path)
    except (OSError, DamagedFile):
        return {}


def _seconds(path: Path) -> float | None:
    """Those in the first row of a benchmark file of Snakemake's; None if it has none."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return float(next(csv.DictReader(file, delimiter="\t"))["s"])
    except (OSError, StopIteration, LookupError, ValueError):
        return None
