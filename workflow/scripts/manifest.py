"""Build the manifest of a split from the dataset's annotations (rule `manifest`)."""

from depalm.jobs import run_script

run_script("manifest", snakemake)
