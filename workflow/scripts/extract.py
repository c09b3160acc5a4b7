"""Extract one shard of a token cache (rule `extract`)."""

from depalm.jobs import run_script

run_script("extract", snakemake)
