"""Make the page of all results (rule `report`)."""

from depalm.jobs import run_script

run_script("report", snakemake)
