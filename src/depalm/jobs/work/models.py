"""The models of a run, and where its features come from."""

import os
from pathlib import Path
from typing import Any

import torch

from depalm.adapters.adapter import Adapter
from depalm.adapters.record import made_for
from depalm.backbones.base import Backbone
from depalm.features.source import Source
from depalm.jobs.run import RunJob
from depalm.llms.base import LLM
from depalm.provenance import choose_device


def use_processors(job: RunJob) -> torch.device:
    """Take the threads of the job, and return its device."""
    torch.set_num_threads(job.threads)
    # cuBLAS reads it when it starts; with it, its sums have a fixed order
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return choose_device(job.device)


def made_by(job: RunJob) -> dict[str, Any]:
    """The models that the job's adapter is made for: see `depalm.adapters.record.made_for`."""
    return made_for(job.method, job.backbone, job.weights, job.llm, Path(job.llm_directory))


def source_of(job: RunJob) -> Source:
    """The source of the job's features."""
    return Source(job.backbone, job.weights, job.features, job.workers)


def build_adapter(job: RunJob, llm: LLM, backbone: Backbone | None) -> Adapter:
    """The adapter of a run, with the tuning of its LLM and of a backbone that runs with it."""
    models = {"llm": llm.body, **({} if backbone is None else {"backbone": backbone})}
    return Adapter(job.method, job.backbone.shape, job.llm.shape, models)
