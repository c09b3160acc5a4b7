"""Build the manifest of a split from the dataset's annotations (rule `manifest`)."""

from pathlib import Path

from depalm.datasets.manifest import build_manifest, write_manifest
from depalm.process import job
from depalm.rejects import write_rejects

with job(snakemake.log[0]):
    samples, rejects = build_manifest(
        root=Path(snakemake.input.data),
        dataset=snakemake.params.dataset,
        split=snakemake.params.split,
        max_rows=snakemake.params.max_rows,
        max_reject_fraction=snakemake.params.max_reject_fraction,
    )
    write_manifest(snakemake.output.manifest, samples)
    write_rejects(snakemake.output.rejects, rejects)
