"""Convert a fetched model to safetensors, or a dataset to its official form (rule `convert`)."""

from depalm.jobs import run_script

run_script("convert", snakemake)
