"""Aggregate the scores of many runs into one result table, in every format."""

from depalm.job import job
from depalm.typeset import write_table

with job(snakemake.log[0]):
    write_table(
        snakemake.input.scores,
        snakemake.params.table,
        snakemake.output,
        snakemake.input.published[0] if snakemake.input.published else None,
    )
