"""Extract one shard of a token cache (rule `extract`)."""

from pathlib import Path

import torch

from depalm.datasets.manifest import read_manifest, unique_media
from depalm.features.extract import Extraction, extract, media_of_shard
from depalm.process import job
from depalm.provenance import choose_device
from depalm.rejects import write_rejects

with job(snakemake.log[0]):
    torch.set_num_threads(snakemake.threads)
    media = unique_media(read_manifest(snakemake.input.manifest))
    rejects = extract(
        backbone=snakemake.params.backbone,
        weights=Path(snakemake.input.weights),
        root=Path(snakemake.input.data),
        media=media_of_shard(media, snakemake.params.shard, snakemake.params.shards),
        layers=snakemake.params.layers,
        output=Path(snakemake.output.shard),
        settings=Extraction(workers=snakemake.config["cache"]["workers"], **snakemake.params.cache),
        device=choose_device(snakemake.params.device),
        view=snakemake.params.view,
    )
    write_rejects(snakemake.output.rejects, rejects)
