"""Fetch one shard of a published token cache, and check it (rule `fetch_shard`)."""

from pathlib import Path

from depalm.cache.store import TokenCache
from depalm.media.decoders import token_identity
from depalm.process import job
from depalm.sources.download import download_url

with job(snakemake.log[0]):
    for output in map(Path, (snakemake.output.shard, snakemake.output.rejects)):
        place = output.relative_to("results").as_posix()
        download_url(f"{snakemake.params.url.rstrip('/')}/{place}", output)
    identity = token_identity(snakemake.params.backbone, snakemake.params.view)
    TokenCache([snakemake.output.shard], identity).verify()
