"""The models of a run, and where its features come from."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from depalm.adapters.adapter import Adapter
from depalm.adapters.layout import layout
from depalm.adapters.record import made_for
from depalm.backbones.base import Backbone
from depalm.datasets.manifest import Sample
from depalm.features.source import Source
from depalm.files import sha256_json
from depalm.gpus import GPUError, take_gpus
from depalm.identity import PLACES, folder_identity
from depalm.jobs.generate import GenerateJob
from depalm.jobs.run import RunJob
from depalm.jobs.train import TrainJob
from depalm.llms.base import LLM
from depalm.llms.load import load_llm
from depalm.process import multiplies
from depalm.progress import logger
from depalm.provenance import choose_device, machine
from depalm.specs import Usage


def use_processors(
    job: RunJob, dtype: str, processes: int = 1, rank: int | None = None
) -> torch.device:
    """Take the threads of the job, and a GPU for each of its processes; return the device of
    process `rank`, on which the LLM computes in `dtype`. Raises GPUError.
    """
    torch.set_num_threads(job.threads)
    # cuBLAS reads it when it starts; with it, its sums have a fixed order
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    take_gpus(job.device, processes)
    device = choose_device(job.device)
    if processes > 1 and device.type == "cuda":
        if (count := torch.cuda.device_count()) < processes:
            raise GPUError(f"{processes} processes are to have a GPU each, but the job has {count}")
        if rank is not None:
            device = torch.device("cuda", rank)
            torch.cuda.set_device(device)
    if device.type == "cpu" and not multiplies(dtype):
        logger.warning(
            "this processor has no units for %s, and takes several times as long as for float32: "
            "consider dtype: float32",
            dtype,
        )
    return device


def made_by(job: RunJob) -> dict[str, Any]:
    """The models that the job's adapter is made for: see `depalm.adapters.record.made_for`."""
    return made_for(job.method, job.backbone, job.weights, job.llm, Path(job.llm_directory))


def llm_of(job: TrainJob | GenerateJob, device: torch.device) -> LLM:
    """The job's LLM on `device`; if it is sharded, this process's part of it."""
    where = torch.device("cpu") if job.shard_llm else device
    llm = load_llm(job.llm, Path(job.llm_directory), job.dtype, where, job.prompt)
    if not job.shard_llm:
        return llm
    from depalm.llms.sharded import shard_layers  # a second of every other job

    return shard_layers(llm, device)


def source_of(job: RunJob, samples: Sequence[Sample]) -> Source:
    """The source of the features of `samples` that the job reads. Raises AdapterError for a method
    that does not fit the models.
    """
    fitted = layout(job.method, job.backbone.shape, job.llm.shape)
    return Source(job.backbone, job.weights, job.features, fitted, samples, job.workers)


def usage_of(job: TrainJob, source: Source) -> Usage:
    """What those who use the job's adapter must know."""
    return Usage(
        method=job.method,
        backbone=job.backbone,
        backbone_directory=job.backbone_directory,
        llm=job.llm,
        llm_directory=job.llm_directory,
        prompt=job.prompt,
        template=job.template,
        **source.precision,
    )


def identity_of(
    job: RunJob, made: dict[str, Any], samples: Sequence[Sample], device: torch.device
) -> dict[str, Any]:
    """What decides the bytes that a job on the models of a run makes, as far as all have it."""
    told = [[s.id, s.sha256, s.prompt, s.references] for s in samples]
    parts = {
        kind: {key: value for key, value in part.items() if key not in PLACES}
        for kind, part in job.parts.items()
    }
    return {
        **parts,
        "made_for": made,
        "llm_files": folder_identity(Path(job.llm_directory)),
        "samples": sha256_json(told),
        **machine(device),
    }


def build_adapter(job: RunJob, llm: LLM, backbone: Backbone | None) -> Adapter:
    """The adapter of a run, with the tuning of its LLM and of a backbone that runs with it."""
    models = {"llm": llm.body, **({} if backbone is None else {"backbone": backbone})}
    return Adapter(job.method, job.backbone.shape, job.llm.shape, models)
