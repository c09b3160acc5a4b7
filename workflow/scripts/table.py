"""Aggregate the scores of many runs into one result table (rule `table`)."""

from depalm.jobs import run_script

run_script("table", snakemake)
