"""Fetch a part's source into its own directory (rule `fetch`)."""

from pathlib import Path

from depalm.process import job
from depalm.sources.fetch import fetch

with job(snakemake.log[0]):
    source, destination = snakemake.params.source, Path(snakemake.output[0])
    sources = source if isinstance(source, list) else [source]
    fetch(sources, destination, downloads=destination.parents[1] / ".cache")
