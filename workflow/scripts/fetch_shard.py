"""Fetch one shard of a published token cache, and check it (rule `fetch_shard`)."""

from pathlib import Path

from depalm.download import download_url
from depalm.job import job
from depalm.media import token_identity
from depalm.token_cache import TokenCache

with job(snakemake.log[0]):
    for output in map(Path, (snakemake.output.shard, snakemake.output.rejects)):
        place = output.relative_to("results").as_posix()
        download_url(f"{snakemake.params.url.rstrip('/')}/{place}", output)
    identity = token_identity(snakemake.params.backbone, snakemake.params.view)
    TokenCache([snakemake.output.shard], identity).verify()
