"""Draw the training subset of a fraction and seed: one sample id a line (rule `subset`)."""

from depalm.jobs import run_script

run_script("subset", snakemake)
