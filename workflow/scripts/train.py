"""Train the adapter of one run from the cache (rule `train`)."""

from pathlib import Path

import torch

from depalm.job import start_job
from depalm.provenance import choose_device
from depalm.runs import train_run
from depalm.train import Settings

start_job(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
train_run(
    manifest=Path(snakemake.input.manifest),
    subset=Path(snakemake.input.subset),
    shards=[Path(shard) for shard in snakemake.input.shards],
    views=snakemake.params.views,
    llm_directory=Path(snakemake.input.llm),
    parts={name: snakemake.params[name] for name in ("method", "backbone", "llm")},
    settings=Settings(**snakemake.params.train),
    seed=snakemake.params.seed,
    device=choose_device(snakemake.params.device),
    adapter_path=Path(snakemake.output.adapter),
    config_path=Path(snakemake.output.adapter_config),
    summary_path=Path(snakemake.output.summary),
    log_path=Path(snakemake.output.log),
)
