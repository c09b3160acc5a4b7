"""Generation by a run, from the files that stand before it to those behind it."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from depalm.adapters.adapter import Adapter
from depalm.adapters.saved import load_adapter
from depalm.backbones.base import Backbone
from depalm.datasets.manifest import Sample, read_manifest, unique_media
from depalm.features.base import partition
from depalm.features.source import Source
from depalm.files import read_checked, sha256_file, write_checked
from depalm.generation.generate import generate, write_texts
from depalm.generation.partial import Partial
from depalm.jobs.generate import GenerateJob
from depalm.jobs.outputs import publish, publish_again
from depalm.jobs.work.models import (
    build_adapter,
    identity_of,
    llm_of,
    made_by,
    source_of,
    use_processors,
)
from depalm.jobs.work.processes import in_processes, work_as_one
from depalm.lease import Lease, while_owned
from depalm.llms.base import LLM
from depalm.provenance import provenance
from depalm.rejects import write_rejects
from depalm.training.group import ALONE, Group


def generate_run(job: GenerateJob) -> None:
    """Do the job: a prediction for each sample of the manifest that has features, in order."""
    run = _run(job, use_processors(job, job.dtype, job.processes))
    while_owned(run.folder, run.work)


def generate_part(job: GenerateJob, device: torch.device, group: Group) -> None:
    """Do what one process of several does."""
    _run(job, device).write_part(group, lambda: None)


def _run(job: GenerateJob, device: torch.device) -> "_Run":
    texts = Path(job.texts)
    folder = texts.parent / "generation" / texts.name.partition(".")[0]
    return _Run(job, device, made_by(job), read_manifest(job.manifest), folder)


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
        if publish_again(self.folder, self.places, self.identity):
            return
        processes = self.job.processes
        if processes == 1:
            self.write_part(ALONE, held.check)
        else:
            in_processes(self.job, __name__, self.folder, held)
        held.check()
        writers = 1 if self.job.shard_llm else processes
        parts = [self.folder / _part(rank) for rank in range(writers)]
        self.put_together([read_checked(path) for path in parts])
        publish(self.folder, self.places, self.identity)
        for path in (*parts, *self.folder.glob("partial*.jsonl")):
            path.unlink()

    def write_part(self, group: Group, before_writing: Callable[[], None]) -> None:
        """Generate the texts of a part of the samples, those of one image together; with a sharded
        LLM all processes generate all of them, and the first writes.
        """
        job, folder = self.job, self.folder
        llm = llm_of(job, self.device)
        model = self.source.load_model(self.device)
        adapter = self.trained_adapter(llm, model)
        with self.source.open(adapter, model, self.device) as features:
            kept, rejects = partition(self.samples, features.rejected)
            if job.shard_llm:
                partial = _read_by_all(folder / "partial.jsonl", self.identity, group)
            else:
                media = set(unique_media(kept)[group.rank :: group.size])
                kept = [sample for sample in kept if sample.media in media]
                name = "" if group.size == 1 else f".{group.rank}-of-{group.size}"
                partial = Partial(folder / f"partial{name}.jsonl", self.identity)
            texts = generate(llm, adapter, kept, features, job.generate, partial, before_writing)
        if group.leads:
            before_writing()
            write_rejects(folder / "rejects.parquet", rejects)
        if group.leads or not job.shard_llm:
            found = dict(zip((sample.id for sample in kept), texts, strict=True))
            content = {"texts": found, "seconds": partial.seconds}
            write_checked(folder / _part(group.rank), content)

    def put_together(self, parts: Sequence[Mapping[str, Any]]) -> None:
        """Write the outputs out of what the processes have written."""
        job, folder = self.job, self.folder
        texts = {name: text for part in parts for name, text in part["texts"].items()}
        kept = [sample for sample in self.samples if sample.id in texts]
        write_texts(folder / "texts.jsonl", kept, [texts[sample.id] for sample in kept])
        summary = {
            "generate_seconds": round(max(part["seconds"] for part in parts), 1),
            "expected": job.expected,
            "samples": len(kept),
            "texts_sha256": sha256_file(folder / "texts.jsonl"),
            "dtype": job.generate.dtype,
            "decoding": job.generate.filled(),
            "rejects": len(self.samples) - len(kept),
            **provenance(self.device),
        }
        write_checked(folder / "summary.json", summary)

    def trained_adapter(self, llm: LLM, model: Backbone | None) -> Adapter:
        job = self.job
        adapter = build_adapter(job, llm, model)
        run = Path(job.texts).parent
        load_adapter(adapter, Path(job.adapter), Path(job.record), self.made, run)
        return adapter.to(self.device).eval()

    @cached_property
    def source(self) -> Source:
        return source_of(self.job, self.samples)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that decides the bytes of the outputs."""
        return {
            **identity_of(self.job, self.made, self.samples, self.device),
            "decoding": self.job.generate.filled(),
            "adapter": [sha256_file(self.job.adapter), sha256_file(self.job.record)],
            "rows": self.source.identity,
        }

    @property
    def places(self) -> dict[str, Path]:
        """The places of the files in `folder`."""
        return {
            "texts.jsonl": Path(self.job.texts),
            "summary.json": Path(self.job.summary),
            "rejects.parquet": Path(self.job.rejects),
        }


def _part(rank: int) -> str:
    """The name of the file with what a process has generated."""
    return f"part.{rank}.json"


def _read_by_all(path: Path, identity: Mapping[str, Any], group: Group) -> Partial:
    """The texts that are there already, for all processes the same; the first writes."""
    if group.leads:
        partial = Partial(path, identity)
    group.wait()
    if not group.leads:
        partial = Partial(path, identity, writes=False)
    group.wait()
    return partial


if __name__ == "__main__":
    work_as_one(GenerateJob, generate_part, sys.argv[1:])
