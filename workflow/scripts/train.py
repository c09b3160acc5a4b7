"""Train the adapter of one run (rule `train`)."""

from depalm.jobs import run_script

run_script("train", snakemake)
