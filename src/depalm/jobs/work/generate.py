"""Generation by a run, from the files that stand before it to those behind it."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from depalm.adapters.adapter import Adapter
from depalm.adapters.saved import load_adapter
from depalm.backbones.base import Backbone
from depalm.datasets.manifest import Sample, read_manifest
from depalm.features.base import FeatureSource, partition
from depalm.files import sha256_file, sha256_json, write_json
from depalm.generation.generate import generate, write_predictions
from depalm.jobs.generate import GenerateJob
from depalm.jobs.outputs import publish, publish_again
from depalm.jobs.work.models import build_adapter, made_by, source_of, use_processors
from depalm.lease import Lease, while_owned
from depalm.llms.base import LLM
from depalm.llms.load import load_llm
from depalm.provenance import machine, provenance
from depalm.rejects import write_rejects


def generate_run(job: GenerateJob) -> None:
    """Do the job: a prediction for each sample of the manifest that has features, in order."""
    device = use_processors(job)
    made = made_by(job)
    samples = read_manifest(job.manifest)
    predictions = Path(job.predictions)
    folder = predictions.parent / "generation" / predictions.name.partition(".")[0]
    run = _Run(job, device, made, samples, folder)
    while_owned(folder, run.work)


@dataclass(frozen=True)
class _Run:
    """A run that generates in `folder`; its `samples` are read, its models are not."""

    job: GenerateJob
    device: torch.device
    made: dict[str, Any]
    samples: list[Sample]
    folder: Path

    def work(self, held: Lease) -> None:
        """Generate, and write the outputs; if they are there already, give them their places."""
        job, folder = self.job, self.folder
        source = source_of(job)
        llm = load_llm(job.llm, Path(job.llm_directory), job.generate.dtype, self.device)
        model = source.load_model(self.device)
        adapter = self.trained_adapter(llm, model)
        with source.open(adapter, model, self.samples, self.device) as features:
            identity = self.identity(features)
            if publish_again(folder, self.places, identity):
                return
            kept, rejects = partition(self.samples, features.rejected)
            started = time.monotonic()
            texts = generate(llm, adapter, kept, features, job.generate)
            elapsed = time.monotonic() - started
            held.check()
            write_rejects(folder / "rejects.parquet", rejects)
        write_predictions(folder / "predictions.jsonl", kept, texts)
        summary = {
            "generate_seconds": round(elapsed, 1),
            "samples": len(kept),
            "rejects": len(self.samples) - len(kept),
            **provenance(self.device),
        }
        write_json(folder / "summary.json", summary)
        publish(folder, self.places, identity)

    def trained_adapter(self, llm: LLM, model: Backbone | None) -> Adapter:
        job = self.job
        adapter = build_adapter(job, llm, model)
        run = Path(job.predictions).parent
        load_adapter(adapter, Path(job.adapter), Path(job.record), self.made, run)
        return adapter.to(self.device).eval()

    def identity(self, features: FeatureSource) -> str:
        """The fingerprint of all that decides the bytes of the outputs."""
        return sha256_json(
            {
                **self.job.parts,
                "decoding": self.job.generate.filled(),
                "made_for": self.made,
                "manifest": sha256_file(self.job.manifest),
                "adapter": sha256_file(self.job.adapter),
                "cache": features.identity,
                **machine(self.device),
            }
        )

    @property
    def places(self) -> dict[str, Path]:
        """The places of the files in `folder`."""
        return {
            "predictions.jsonl": Path(self.job.predictions),
            "summary.json": Path(self.job.summary),
            "rejects.parquet": Path(self.job.rejects),
        }
