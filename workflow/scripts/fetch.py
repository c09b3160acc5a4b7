"""Fetch a part's source into its own directory (rule `fetch`)."""

from depalm.jobs import run_script

run_script("fetch", snakemake)
