"""Choose the settings of a method by validation (rule `tune`)."""

from depalm.jobs import run_script

run_script("tune", snakemake)
