"""Draw the training subset of a fraction and seed: one sample id a line (rule `subset`)."""

from depalm.datasets.manifest import draw_subset, read_manifest
from depalm.files import atomic_file
from depalm.process import job
from depalm.progress import logger

with job(snakemake.log[0]):
    ids = [sample.id for sample in read_manifest(snakemake.input.manifest)]
    subset = draw_subset(ids, snakemake.params.fraction, snakemake.params.seed)
    with atomic_file(snakemake.output.ids) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in subset), encoding="utf-8")
    logger.info("%d of %d samples", len(subset), len(ids))
