"""Generate the predictions of one run (rule `generate`)."""

from pathlib import Path

import torch

from depalm.features.online import online_media
from depalm.generation.generate import Decoding
from depalm.jobs.runs import generate_run
from depalm.process import job
from depalm.provenance import choose_device

with job(snakemake.log[0]):
    torch.set_num_threads(snakemake.threads)
    generate_run(
        manifest=Path(snakemake.input.manifest),
        shards=[*snakemake.input.shards, *snakemake.params.urls],
        backbone_directory=Path(snakemake.input.backbone[0]) if snakemake.input.backbone else None,
        llm_directory=Path(snakemake.input.llm),
        adapter_path=Path(snakemake.input.adapter),
        record_path=Path(snakemake.input.record),
        parts={name: snakemake.params[name] for name in ("method", "backbone", "llm")},
        decoding=Decoding(**snakemake.params.generate),
        device=choose_device(snakemake.params.device),
        predictions_path=Path(snakemake.output.predictions),
        summary_path=Path(snakemake.output.summary),
        rejects_path=Path(snakemake.output.rejects),
        media=online_media(
            snakemake.input.media,
            workers=snakemake.config["cache"]["workers"],
            **snakemake.params.decoding,
        ),
    )
