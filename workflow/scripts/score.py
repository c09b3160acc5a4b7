"""Score the predictions of a run against the references of its manifest (rule `score`)."""

from depalm.jobs import run_script

run_script("score", snakemake)
