"""Aggregate the scores of many runs into one result table, in every format."""

from depalm.evaluation.render import write_table
from depalm.process import job

with job(snakemake.log[0]):
    write_table(
        snakemake.input.scores,
        snakemake.params.table,
        snakemake.output,
        snakemake.input.published[0] if snakemake.input.published else None,
    )
