"""Aggregate the scores of many runs into one result table, in every format."""

from depalm.progress import log_to
from depalm.typeset import write_table

log_to(snakemake.log[0])
write_table(snakemake.input.scores, snakemake.params.table, snakemake.output)
