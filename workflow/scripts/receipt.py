"""Look up the rows of a split in the token store, and write what they are (rule `receipt`)."""

from depalm.jobs import run_script

run_script("receipt", snakemake)
