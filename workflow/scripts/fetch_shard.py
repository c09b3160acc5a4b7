"""Fetch one shard of a published token cache, and check it (rule `fetch_shard`)."""

from depalm.jobs import run_script

run_script("fetch-shard", snakemake)
