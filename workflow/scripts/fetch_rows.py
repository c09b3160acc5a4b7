"""Fetch one shard of a published token cache, and check it (rule `fetch_rows`)."""

from depalm.jobs import run_script

run_script("fetch-rows", snakemake)
