"""What the stages of a configuration cost: time of their jobs, memory and disk."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from depalm.cache.formats import CLS, FORMATS, arrays_of, predicted_bytes
from depalm.config import paths
from depalm.config.experiment import Config
from depalm.config.plan import RunPlan, manifest
from depalm.config.store_plan import StorePlan
from depalm.cost import memory
from depalm.cost.counts import Rows, rows_of_manifest, rows_of_size
from depalm.cost.measured import measured
from depalm.cost.rates import DECODE, GPU_STEP, GPU_TOKEN, MEMORY, Key, Rates
from depalm.cost.work import (
    AdapterWork,
    LLMWork,
    adapter_work,
    backbone_weights,
    backbone_work,
    llm_weights,
    llm_work,
)
from depalm.datasets.subsets import parse_fraction
from depalm.errors import DamagedFile
from depalm.files import read_checked
from depalm.specs import TrainSpec
from depalm.training.schedule import Schedule, TrainingError

STAGES = ("extract", "tune", "train", "generate")
BATCH = 64  # of `batch_size: auto`, about


@dataclass(frozen=True)
class Cost:
    """Jobs of one stage that are alike, but for what they are about.

    key: see depalm.cost.rates. operations: of matrix products, in all jobs. work, start: seconds of
    a job. processes: of a job, each with a GPU, or `threads` of the CPU. memory, main_memory: bytes
    of a process on the device that computes, and of the machine. disk: bytes that all leave.
    """

    stage: str
    key: Key
    jobs: int
    operations: float
    work: float
    start: float
    threads: int
    memory: float
    main_memory: float
    disk: float = 0.0
    done: bool = False
    processes: int = 1

    @property
    def seconds(self) -> float:
        """Of all jobs."""
        return self.jobs * (self.start + self.work)


@dataclass(frozen=True)
class CostPlan:
    """The costs of a configuration on `device`, cpu or gpu; None is of what nobody knows yet: how
    much data there is.
    """

    config: Config
    device: str
    _rows: dict[tuple[str, str], Rows] = field(default_factory=dict, repr=False)

    def costs(self) -> Iterator[Cost]:
        """Of all that the configuration runs, as far as it is known."""
        yield from self.extractions()
        cells = set()
        for run in self.config.runs:
            plan = self.config.plan(run)
            if plan.tuned_file and not plan.checkpoint and plan.tuned_file[0] not in cells:
                cells.add(plan.tuned_file[0])
                if (cost := self.tuning(plan)) is not None:
                    yield cost
            found = [None if plan.checkpoint else self.training(plan), self.generation(plan)]
            yield from (cost for cost in found if cost is not None)

    def unknown(self) -> list[str]:
        """The manifests that are not there yet, of datasets that do not say their `size`."""
        wanted = {
            (run.dataset, split)
            for run in self.config.runs
            for split in ("train", self.config.plan(run).dataset.test_split)
            if split in self.config.plan(run).dataset.splits
        }
        return sorted(manifest(*place) for place in wanted if self.rows(*place) is None)

    def rows(self, dataset: str, split: str) -> Rows | None:
        """How much there is of a split."""
        path = Path(manifest(dataset, split))
        if (dataset, split) not in self._rows and path.exists():
            with suppress(OSError, ValueError):  # damaged: who reads it says so
                self._rows[dataset, split] = rows_of_manifest(path)
        if (dataset, split) in self._rows:
            return self._rows[dataset, split]
        most = getattr(self.config.settings.data.max_rows, split)
        return rows_of_size(self.config.parts.dataset(dataset), split, most)

    @cached_property
    def rates(self) -> Rates:
        """The speed of the device, as far as jobs of this configuration have shown it."""
        return Rates.of(self.device, measured(self.config, self.device))

    def extractions(self) -> Iterator[Cost]:
        """The rows that go into the token store."""
        for place in StorePlan(self.config).caches():
            if (cost := self.extraction(place)) is not None:
                yield cost

    def extraction(self, place: Mapping[str, Any]) -> Cost | None:
        """The rows of a dataset, split and view by a backbone, in the arrays of `place`."""
        settings = self.config.settings
        cache = settings.cache
        rows = self.rows(place["dataset"], place["split"])
        if rows is None:
            return None
        spec = self.config.parts.backbone(place["backbone"])
        operations = rows.media * backbone_work(spec.shape)
        decoding = rows.media * DECODE[spec.modality] / (cache.workers * cache.shards)
        speed = self.rates.assumed(cache.compute, settings.threads.extract)
        key = ("extract", spec.modality, place["backbone"])
        each = self.rates.seconds(
            key, operations / cache.shards, max(operations / cache.shards / speed, decoding)
        )
        sizes = predicted_bytes(
            FORMATS[cache.format], rows.media, spec.shape.given(), place["arrays"]
        )
        return Cost(
            stage="extract",
            key=key,
            jobs=cache.shards,
            operations=operations,
            work=each,
            start=self.rates.start,
            threads=settings.threads.extract,
            **self._memory(
                memory.of_encoder(spec.shape, cache.batch_size),
                4.0 * backbone_weights(spec.shape),
                cache.workers,
            ),
            disk=sum(sizes.values()),
            done=_is_done(set(place["arrays"]), place),
        )

    def training(self, plan: RunPlan) -> Cost | None:
        """The training of a run."""
        rows = self.rows(plan.run.dataset, "train")
        if rows is None:
            return None
        rows = rows.part(float(parse_fraction(plan.run.fraction)))
        train, (adapter, llm) = _settings(plan), self.work(plan, rows)
        grouped = train.texts_per_image > 1
        units = rows.media if grouped else rows.samples
        texts = min(train.texts_per_image, rows.samples / rows.media) if grouped else 1.0
        try:
            steps = Schedule(train, units).total
        except TrainingError:
            return None
        batch = min(train.batch_size, units) * train.accumulate
        text = llm.forward + llm.backward + (rows.answer + 1) * 2 * llm.head
        text += 3 * adapter.position * rows.text
        shared = 3 * adapter.media
        if plan.online and plan.reads_backbone:
            shared += backbone_work(plan.backbone.shape)
        operations = steps * batch * (texts * text + shared)
        settings, processes = self.config.settings, self.config.settings.gpus.train
        speed = self.rates.assumed(train.dtype, settings.threads.train) * processes
        assumed = operations / speed
        if self.device == "gpu":
            assumed = max(assumed, steps * train.accumulate * plan.llm.shape.layers * GPU_STEP)
        key = ("train", plan.run.llm, plan.run.backbone, plan.run.method, plan.run.dataset)
        return Cost(
            stage="train",
            key=key,
            jobs=1,
            operations=operations,
            work=self.rates.seconds(key, operations, assumed),
            start=self.rates.start,
            threads=settings.threads.train,
            processes=processes,
            **self._memory(
                memory.of_training(plan, adapter, rows.text, self.device),
                memory.BYTES[train.dtype] * llm_weights(plan.llm),
            ),
            disk=4.0 * adapter.parameters,
            done=all(Path(file).exists() for file in plan.adapter_files),
        )

    def tuning(self, plan: RunPlan) -> Cost | None:
        """The choice of a method's settings, in as many trainings as its rounds have, for a share
        of their steps.
        """
        tune, one = plan.tune, self.training(plan)
        if tune is None or one is None:
            return None
        given = [plan.train.with_chosen(candidate) for candidate in tune.candidates]
        trials = [self.training(replace(plan, train=train, tune=None)) for train in given]
        costs = [cost for cost in trials if cost is not None]
        times = sum(count * share for count, share in tune.rounds)
        return replace(
            one,
            stage="tune",
            operations=times * fmean(cost.operations for cost in costs),
            work=times * fmean(cost.work for cost in costs),
            disk=0.0,
            done=Path(plan.tuned_file[0]).exists(),
        )

    def generation(self, plan: RunPlan) -> Cost | None:
        """The generation of a run."""
        split, settings = plan.dataset.test_split, self.config.settings
        rows = self.rows(plan.run.dataset, split)
        if rows is None:
            return None
        adapter, llm = self.work(plan, rows, training=False)
        generate = settings.generate
        tokens = min(generate.max_new_tokens, rows.answer + 1)
        prompt = llm.forward + adapter.media
        weights = llm_weights(plan.llm)
        token = generate.beams * (2.0 * weights + adapter.position)
        operations = rows.samples * (prompt + tokens * token)
        batch = BATCH if generate.batch_size == "auto" else generate.batch_size
        steps = rows.samples / batch * tokens
        size = memory.BYTES[generate.dtype] * weights
        assumed = max(
            operations / self.rates.assumed(generate.dtype, settings.threads.generate, True),
            steps * size / MEMORY[self.device],
            steps * plan.llm.shape.layers * (GPU_TOKEN if self.device == "gpu" else 0.0),
        )
        processes = settings.gpus.generate
        assumed /= 1 if settings.gpus.shard_llm else processes
        key = ("generate", plan.run.llm, plan.run.backbone, plan.run.method, plan.run.dataset)
        return Cost(
            stage="generate",
            key=key,
            jobs=1,
            operations=operations,
            work=self.rates.seconds(key, operations, assumed),
            start=self.rates.start,
            threads=settings.threads.generate,
            processes=processes,
            **self._memory(memory.of_generation(plan, adapter, rows, batch, generate.dtype), size),
            done=Path(plan.scores).exists(),
        )

    def _memory(self, computing: float, weights: float, workers: int = 0) -> dict[str, Any]:
        """The memory of a process: beside a GPU's, main memory is that of loading the weights."""
        beside = memory.BASE * (1 + workers)
        main = computing + beside if self.device == "cpu" else memory.BASE + weights + beside
        return {"memory": computing, "main_memory": main}

    def work(self, plan: RunPlan, rows: Rows, training: bool = True) -> tuple[AdapterWork, LLMWork]:
        """The arithmetic of a run's adapter on a sample, and of its LLM on a text, or in generation
        on a prompt.
        """
        adapter = adapter_work(plan.method, plan.layout, plan.llm, training)
        text = rows.text if training else 1 + rows.prompt
        return adapter, llm_work(plan.method, plan.layout, plan.llm, adapter.tokens, text)


def expected(cost: Cost | None) -> dict[str, float]:
    """What the record of a job tells of what was expected: seconds without its start, and
    operations. Empty if nothing is known.
    """
    if cost is None:
        return {}
    return {"seconds": round(cost.work, 1), "operations": float(round(cost.operations))}


def _settings(plan: RunPlan) -> TrainSpec:
    """How a run is trained, with what tuning has chosen if it is done."""
    for file in map(Path, plan.tuned_file):
        with suppress(OSError, DamagedFile):  # not there yet; damaged: who reads it says so
            return plan.train.with_chosen(read_checked(file)["chosen"])
    return plan.train


def _is_done(arrays: set[str], place: Mapping[str, Any]) -> bool:
    """Whether receipts tell of the arrays of a view of a split; summary tokens come with any."""
    view = Path(paths.VIEW.format(**place))
    received = {array for path in view.glob("*.json") for array in arrays_of(path.stem)}
    return bool(received) and arrays - {CLS} <= received
