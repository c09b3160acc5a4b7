"""The choice of a method's settings: the same candidates for every method, by successive halving
(Jamieson and Talwalkar 2016), on the same part of the training samples that is held out.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from depalm.backbones.base import Backbone
from depalm.datasets.manifest import Sample
from depalm.errors import DamagedFile
from depalm.features.base import partition
from depalm.features.source import Source
from depalm.files import first_difference, read_checked, write_checked
from depalm.identity import run_settings
from depalm.jobs.outputs import publish, publish_again
from depalm.jobs.tune import TuneJob
from depalm.jobs.work.models import identity_of, made_by, source_of, use_processors
from depalm.jobs.work.train import chosen_samples, new_adapter
from depalm.lease import Lease, while_owned
from depalm.llms.base import LLM
from depalm.llms.load import load_llm
from depalm.progress import logger
from depalm.provenance import provenance
from depalm.specs import TrainSpec, ValidationSpec
from depalm.training.batches import encode
from depalm.training.loop import train
from depalm.training.schedule import Schedule, TrainingError
from depalm.training.state import remove_checkpoints
from depalm.training.validation import held_out

TRIAL = "trial.json"


def tune_run(job: TuneJob) -> None:
    """Do the job; trials that have ended are not trained again after a kill."""
    device = use_processors(job, job.train.dtype)
    folder = Path(job.tuned).parent / "trials"
    tuning = _Tuning(job, device, made_by(job), chosen_samples(job), folder)
    while_owned(folder, tuning.work)


@dataclass(frozen=True)
class _Tuning:
    """The trials of a method, in folders of `folder`."""

    job: TuneJob
    device: torch.device
    made: dict[str, Any]
    samples: list[Sample]
    folder: Path

    def work(self, held: Lease) -> None:
        """Train the candidates round by round, and write what was chosen."""
        job, source = self.job, source_of(self.job, self.samples)
        identity = self.identity(source)
        places = {"tuned.json": Path(job.tuned)}
        if publish_again(self.folder, places, identity):
            return
        directory = Path(job.llm_directory)
        llm = load_llm(job.llm, directory, job.train.dtype, self.device, job.prompt)
        models = (llm, source.load_model(self.device), source)
        left, rounds = job.tune.candidates, []
        every: list[dict[str, Any]] = []
        for number, (count, share) in enumerate(job.tune.rounds):
            left = left[:count]
            trials = [
                self.trial(f"{number}-{i}", candidate, share, models, identity, held)
                for i, candidate in enumerate(left)
            ]
            rounds.append({"share": share, "trials": trials})
            every += trials
            order = sorted(range(len(left)), key=lambda i: _loss(trials[i]))
            left = [left[i] for i in order if math.isfinite(_loss(trials[i]))]
            if not left:
                reasons = "; ".join(dict.fromkeys(trial["failed"] for trial in trials))
                raise TrainingError(f"no candidate of tune could be trained: {reasons}")
        held.check()
        result = {
            "chosen": left[0],
            "rounds": rounds,
            "spent": {key: sum(trial[key] for trial in every) for key in ("steps", "seconds")},
            "held_out": max(trial["held_out"] for trial in every),
            "tune": job.tune.filled(),
            "expected": job.expected,
            **provenance(self.device),
        }
        logger.info("chosen: %s", json.dumps(left[0]))
        write_checked(self.folder / "tuned.json", result)
        publish(self.folder, places, identity)

    def trial(
        self,
        name: str,
        candidate: Mapping[str, Any],
        share: float,
        models: tuple[LLM, Backbone | None, Source],
        identity: Mapping[str, Any],
        held: Lease,
    ) -> dict[str, Any]:
        """Train a candidate for its share of the steps: its loss on what is held out, or the reason
        why it has none.
        """
        job, (llm, model, source) = self.job, models
        folder = self.folder / name
        adapter = new_adapter(job, job.train, llm, model, self.made, self.device)
        seed = job.seed if job.train.augment else None
        with source.open(adapter, model, self.device, seed, job.train.frozen_dropout) as features:
            kept, _ = partition(self.samples, features.rejected)
            validation = ValidationSpec(part=job.tune.part, rows=job.tune.rows)
            learned, aside = held_out(kept, validation)
            settings = self.settings(candidate, share, len(learned), validation)
            told = {**identity, "trial": settings.filled()}
            if (ended := _ended(folder, told)) is not None:
                return ended
            logger.info("trial %s: %s, %s steps", name, json.dumps(candidate), settings.steps)
            data = encode(llm, learned, settings.max_answer_tokens, settings.texts_per_image)
            held_back = encode(llm, aside, settings.max_answer_tokens)
            result: dict[str, Any] = {**candidate, "steps": settings.steps, "held_out": len(aside)}
            try:
                trained = train(
                    *(llm, adapter, data, features, settings, job.seed, folder, told),
                    before_writing=held.check,
                    held=held_back,
                )
                result |= {"loss": trained.best.loss, "seconds": round(trained.seconds, 1)}
            except TrainingError as error:
                logger.warning("trial %s: %s", name, error)
                result |= {"loss": None, "failed": str(error), "seconds": 0.0}
        write_checked(folder / TRIAL, {"identity": told, "result": result})
        remove_checkpoints(folder)
        return result

    def settings(
        self, candidate: Mapping[str, Any], share: float, samples: int, validation: ValidationSpec
    ) -> TrainSpec:
        """The settings of a trial, which is validated once, at its end."""
        run = self.job.train.with_chosen(candidate)
        steps = max(1, round(share * Schedule(run, samples).total))
        at_end = validation.model_copy(update={"every": steps})
        return TrainSpec(steps=steps, validation=at_end).over(run)

    def identity(self, source: Source) -> dict[str, Any]:
        """All that decides the result."""
        job = self.job
        settings = run_settings(job.parts, job.train, job.features.kind == "online")
        return {
            "train": settings["train"],
            "features": settings["features"],
            "tune": job.tune.filled(),
            **identity_of(job, self.made, self.samples, self.device),
            "seed": job.seed,
            "rows": source.identity,
        }


def _loss(trial: Mapping[str, Any]) -> float:
    return math.inf if trial["loss"] is None else float(trial["loss"])


def _ended(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result of a trial of this identity that has ended in `folder`, if there is one."""
    try:
        content = read_checked(folder / TRIAL)
        same = first_difference(content["identity"], json.loads(json.dumps(identity)), "") is None
        return dict(content["result"]) if same else None
    except (OSError, DamagedFile, LookupError, TypeError):
        return None
