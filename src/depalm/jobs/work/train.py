"""Training of a run, from the files that stand before it to those behind it."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch

from depalm.adapters.adapter import Adapter
from depalm.adapters.record import RECORD, WEIGHTS, read_record
from depalm.adapters.saved import load_weights, save_adapter
from depalm.backbones.base import Backbone
from depalm.datasets.manifest import Sample, read_manifest
from depalm.features.base import partition
from depalm.features.source import Source
from depalm.files import read_checked, sha256_file, sha256_json
from depalm.identity import run_settings
from depalm.jobs.outputs import publish, publish_again
from depalm.jobs.train import TrainJob
from depalm.jobs.tune import TuneJob
from depalm.jobs.work.models import (
    build_adapter,
    identity_of,
    llm_of,
    made_by,
    source_of,
    usage_of,
    use_processors,
)
from depalm.jobs.work.processes import in_processes, work_as_one
from depalm.lease import Lease, while_owned
from depalm.llms.base import LLM
from depalm.provenance import provenance
from depalm.rejects import write_rejects
from depalm.specs import TrainSpec
from depalm.training.batches import encode
from depalm.training.group import ALONE, Group
from depalm.training.loop import train
from depalm.training.state import Training, remove_checkpoints
from depalm.training.tracking import start_tracking
from depalm.training.validation import held_out


def train_run(job: TrainJob) -> None:
    """Do the job; what is needed to go on after a kill is removed once the run is whole."""
    train_runs([job])


def train_runs(jobs: Sequence[TrainJob]) -> None:
    """Do jobs that differ in nothing that the LLM depends on, one after another, with one copy of
    it in memory.
    """
    first = jobs[0]
    device = use_processors(first, first.dtype, first.processes)
    llm = cache(lambda: llm_of(first, device))
    for job in jobs:
        run = _run(job, device, llm)
        while_owned(run.folder, run.work)


def train_part(job: TrainJob, device: torch.device, group: Group) -> None:
    """Do what one process of several does."""
    _run(job, device, lambda: llm_of(job, device)).learn(group, lambda: None)


def _run(job: TrainJob, device: torch.device, llm: Callable[[], LLM]) -> "_Run":
    folder = Path(job.adapter).parent / "training"
    tuned = None if job.tuned is None else read_checked(job.tuned)
    return _Run(job, device, llm, made_by(job), chosen_samples(job), folder, tuned)


def chosen_samples(job: TrainJob | TuneJob) -> list[Sample]:
    """The samples of the manifest that the job's subset lists. Raises DamagedFile."""
    chosen = set(read_checked(job.subset)["ids"])
    return [sample for sample in read_manifest(job.manifest) if sample.id in chosen]


def new_adapter(
    job: TrainJob | TuneJob,
    settings: TrainSpec,
    llm: LLM,
    model: Backbone | None,
    made: dict[str, Any],
    device: torch.device,
) -> Adapter:
    """The adapter that training starts from: initialised by the seed, or that of `init_from`."""
    start = settings.init_from
    record = None if start is None else read_record(Path(start, RECORD), made)
    torch.manual_seed(job.seed)
    adapter = build_adapter(job, llm, model)
    if start is not None and record is not None:
        load_weights(adapter, Path(start, WEIGHTS), record)
    return adapter.to(device)


@dataclass(frozen=True)
class _Run:
    """A run to be trained in `folder`; its `samples` are read, its models are not: `llm` loads the
    LLM, or has it. `tuned` is what the file of its tuning says, if it was tuned.
    """

    job: TrainJob
    device: torch.device
    llm: Callable[[], LLM]
    made: dict[str, Any]
    samples: list[Sample]
    folder: Path
    tuned: dict[str, Any] | None = None

    @cached_property
    def settings(self) -> TrainSpec:
        """How it is trained, with what tuning has chosen."""
        train = self.job.train
        return train if self.tuned is None else train.with_chosen(self.tuned["chosen"])

    def work(self, held: Lease) -> None:
        """Train, and write the outputs; if they are there already, give them their places."""
        if publish_again(self.folder, self.places, self.identity):
            return
        if self.job.processes == 1:
            self.learn(ALONE, held.check)
        else:
            in_processes(self.job, __name__, self.folder, held)
        publish(self.folder, self.places, self.identity)
        remove_checkpoints(self.folder)

    def learn(self, group: Group, before_writing: Callable[[], None]) -> None:
        """Train, as one process of a group, of which the first writes what is to be published."""
        job, settings, folder, source = self.job, self.settings, self.folder, self.source
        if settings.init_from is not None:  # before the LLM is loaded: it may not fit
            read_record(Path(settings.init_from, RECORD), self.made)
        llm = self.llm()
        model = source.load_model(self.device)
        adapter = new_adapter(job, settings, llm, model, self.made, self.device)
        seed = job.seed if settings.augment else None
        drop_path = settings.frozen_dropout
        with source.open(adapter, model, self.device, seed, drop_path) as features:
            kept, rejects = partition(self.samples, features.rejected)
            learned, held_back = kept, None
            if settings.validation is not None:
                learned, aside = held_out(kept, settings.validation)
                held_back = encode(llm, aside, settings.max_answer_tokens)
            data = encode(llm, learned, settings.max_answer_tokens, settings.texts_per_image)
            tracker = None
            if job.tracking is not None and group.leads:
                tracker = start_tracking(job.tracking, str(folder.parent), self.config)
            trained = train(
                *(llm, adapter, data, features, settings, job.seed, folder, self.identity),
                before_writing=before_writing,
                held=held_back,
                tracker=tracker,
                group=group,
            )
        if not group.leads:
            return
        before_writing()
        write_rejects(folder / "rejects.parquet", rejects)
        summary = self.summary(trained, len(kept))
        usage = usage_of(job, source).given()
        save_adapter(adapter, folder / WEIGHTS, folder / RECORD, self.made, summary, usage)

    @cached_property
    def source(self) -> Source:
        return source_of(self.job, self.samples)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The settings by which it is trained."""
        job = self.job
        return run_settings(job.parts, self.settings, job.features.kind == "online")

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that decides the bytes of the outputs."""
        job, start, config = self.job, self.settings.init_from, self.config
        return {
            "train": config["train"],
            "features": config["features"],
            **identity_of(job, self.made, self.samples, self.device),
            "seed": job.seed,
            "rows": self.source.identity,
            "init_from": None if start is None else sha256_file(Path(start, WEIGHTS)),
            **({} if job.processes == 1 else {"processes": job.processes}),
        }

    def summary(self, trained: Training, kept: int) -> dict[str, Any]:
        """How it was trained, as adapter.json tells it."""
        job = self.job
        told = run_settings(job.parts, job.train, job.features.kind == "online", job.tune)
        return {
            "train_seconds": round(trained.seconds, 1),
            "expected": self.job.expected,
            "steps": trained.step,
            "samples_seen": trained.samples,
            "final_loss": trained.loss,
            **self.validated(trained),
            **({} if self.tuned is None else {"tuned": told_of(self.tuned)}),
            "rejects": len(self.samples) - kept,
            "dtype": self.settings.dtype,
            "config_sha256": sha256_json(told),
            **({} if job.processes == 1 else {"processes": job.processes}),
            **provenance(self.device),
        }

    def validated(self, trained: Training) -> dict[str, Any]:
        """What validation found, if there was one: the lowest loss and its step."""
        spec, best = self.settings.validation, trained.best
        if spec is None:
            return {}
        found = {"loss": best.loss, "step": best.step}
        return {"validation": {**found, "keep": spec.keep}}

    @property
    def places(self) -> dict[str, Path]:
        """The places of the files in `folder`."""
        return {
            WEIGHTS: Path(self.job.adapter),
            RECORD: Path(self.job.record),
            "train.jsonl": Path(self.job.curve),
            "rejects.parquet": Path(self.job.rejects),
        }


def told_of(tuned: dict[str, Any]) -> dict[str, Any]:
    """What adapter.json and scores.json tell of a tuning: what was chosen, of what, by what, and
    the steps that it took.
    """
    spec = tuned["tune"]
    return {
        "chosen": tuned["chosen"],
        "candidates": {key: spec[key] for key in ("lr", "steps") if spec[key] is not None},
        "held_out": tuned["held_out"],
        "steps_spent": tuned["spent"]["steps"],
    }


if __name__ == "__main__":
    work_as_one(TrainJob, train_part, sys.argv[1:])
