"""Generate the predictions of one run (rule `generate`)."""

from depalm.jobs import run_script

run_script("generate", snakemake)
