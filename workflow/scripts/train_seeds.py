"""Train the adapters of some seeds of one run (rules `train_seeds_*`)."""

from depalm.jobs import run_script

run_script("train-seeds", snakemake)
