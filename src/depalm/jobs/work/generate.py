"""Generation by a run, from the files that stand before it to those behind it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from depalm.adapters.adapter import Adapter
from depalm.adapters.saved import load_adapter
from depalm.backbones.base import Backbone
from depalm.datasets.manifest import Sample, read_manifest
from depalm.features.base import partition
from depalm.features.source import Source
from depalm.files import sha256_file, write_checked
from depalm.generation.generate import generate, write_texts
from depalm.generation.partial import Partial
from depalm.jobs.generate import GenerateJob
from depalm.jobs.outputs import publish, publish_again
from depalm.jobs.work.models import (
    build_adapter,
    identity_of,
    made_by,
    source_of,
    use_processors,
)
from depalm.lease import Lease, while_owned
from depalm.llms.base import LLM
from depalm.llms.load import load_llm
from depalm.provenance import provenance
from depalm.rejects import write_rejects


def generate_run(job: GenerateJob) -> None:
    """Do the job: a prediction for each sample of the manifest that has features, in order."""
    device = use_processors(job, job.generate.dtype)
    made = made_by(job)
    samples = read_manifest(job.manifest)
    texts = Path(job.texts)
    folder = texts.parent / "generation" / texts.name.partition(".")[0]
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
        source = source_of(job, self.samples)
        identity = self.identity(source)
        if publish_again(folder, self.places, identity):
            return
        llm = load_llm(
            job.llm, Path(job.llm_directory), job.generate.dtype, self.device, job.prompt
        )
        model = source.load_model(self.device)
        adapter = self.trained_adapter(llm, model)
        with source.open(adapter, model, self.device) as features:
            kept, rejects = partition(self.samples, features.rejected)
            partial = Partial(folder / "partial.jsonl", identity)
            texts = generate(llm, adapter, kept, features, job.generate, partial, held.check)
            held.check()
            write_rejects(folder / "rejects.parquet", rejects)
        write_texts(folder / "texts.jsonl", kept, texts)
        summary = {
            "generate_seconds": round(partial.seconds, 1),
            "expected": job.expected,
            "samples": len(kept),
            "texts_sha256": sha256_file(folder / "texts.jsonl"),
            "dtype": job.generate.dtype,
            "decoding": job.generate.filled(),
            "rejects": len(self.samples) - len(kept),
            **provenance(self.device),
        }
        write_checked(folder / "summary.json", summary)
        publish(folder, self.places, identity)
        partial.remove()

    def trained_adapter(self, llm: LLM, model: Backbone | None) -> Adapter:
        job = self.job
        adapter = build_adapter(job, llm, model)
        run = Path(job.texts).parent
        load_adapter(adapter, Path(job.adapter), Path(job.record), self.made, run)
        return adapter.to(self.device).eval()

    def identity(self, source: Source) -> dict[str, Any]:
        """All that decides the bytes of the outputs."""
        return {
            **identity_of(self.job, self.made, self.samples, self.device),
            "decoding": self.job.generate.filled(),
            "adapter": [sha256_file(self.job.adapter), sha256_file(self.job.record)],
            "rows": source.identity,
        }

    @property
    def places(self) -> dict[str, Path]:
        """The places of the files in `folder`."""
        return {
            "texts.jsonl": Path(self.job.texts),
            "summary.json": Path(self.job.summary),
            "rejects.parquet": Path(self.job.rejects),
        }
