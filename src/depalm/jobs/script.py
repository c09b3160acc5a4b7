"""A job as Snakemake starts it."""

from pathlib import Path
from typing import Any

from depalm import process
from depalm.jobs.registry import JOBS


def run_script(command: str, snakemake: Any) -> None:
    """Do the job that a rule describes to its script, and leave its JSON beside its log."""
    log = Path(snakemake.log[0])
    with process.job(log):
        job = JOBS[command].from_snakemake(snakemake)
        # a second job of the rule, which waits for the first, writes the same
        log.with_suffix(".json").write_text(job.to_json(), encoding="utf-8")
        job.run()
