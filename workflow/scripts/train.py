"""Train the adapter of one run (rule `train`)."""

from pathlib import Path

import torch

from depalm.features.online import online_media
from depalm.jobs.runs import train_run
from depalm.process import job
from depalm.provenance import choose_device
from depalm.training.loop import Settings

with job(snakemake.log[0]):
    torch.set_num_threads(snakemake.threads)
    train_run(
        manifest=Path(snakemake.input.manifest),
        subset=Path(snakemake.input.subset),
        shards=[*snakemake.input.shards, *snakemake.params.urls],
        backbone_directory=Path(snakemake.input.backbone[0]) if snakemake.input.backbone else None,
        views=snakemake.params.views,
        llm_directory=Path(snakemake.input.llm),
        parts={name: snakemake.params[name] for name in ("method", "backbone", "llm")},
        settings=Settings(**snakemake.params.train),
        seed=snakemake.params.seed,
        device=choose_device(snakemake.params.device),
        adapter_path=Path(snakemake.output.adapter),
        record_path=Path(snakemake.output.record),
        log_path=Path(snakemake.output.log),
        rejects_path=Path(snakemake.output.rejects),
        media=online_media(
            snakemake.input.media,
            workers=snakemake.config["cache"]["workers"],
            **snakemake.params.decoding,
        ),
    )
