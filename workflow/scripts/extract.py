"""Extract tokens of a part of a split into the token store (rule `extract`)."""

from depalm.jobs import run_script

run_script("extract", snakemake)
