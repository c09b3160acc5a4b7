"""Fetch one shard of a published token cache, and check it (rule `receipt`)."""

from depalm.jobs import run_script

run_script("receipt", snakemake)
