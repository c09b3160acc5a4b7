"""Convert a fetched model to safetensors, or a dataset to its official form (rule `convert`)."""

from pathlib import Path

from depalm.process import job
from depalm.sources.convert import convert

with job(snakemake.log[0]):
    convert(
        Path(snakemake.input.download),
        Path(snakemake.output[0]),
        converter=snakemake.params.convert,
    )
