"""Fetch a part's source into its own directory (rule `fetch`)."""

from pathlib import Path

from depalm.progress import log_to
from depalm.sources import fetch

log_to(snakemake.log[0])
source, destination = snakemake.params.source, Path(snakemake.output[0])
fetch(source["uri"], destination, source.get("sha256"), downloads=destination.parents[1] / ".cache")
