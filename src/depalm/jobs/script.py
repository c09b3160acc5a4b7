"""A job as Snakemake starts it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from depalm import process
from depalm.errors import DamagedFile, DepalmError
from depalm.jobs.registry import JOBS


def run_script(command: str, snakemake: Any) -> None:
    """Do the job that a rule describes to its script, and leave its JSON beside its log."""
    log = Path(snakemake.log[0])
    with process.job(log):
        job = JOBS[command].from_snakemake(snakemake)
        # a second job of the rule, which waits for the first, writes the same
        log.with_suffix(".json").write_text(job.to_json(), encoding="utf-8")
        with set_aside(named(snakemake.input)):
            job.run()


def named(files: Any) -> list[Path]:
    return [Path(str(file)) for file in files]


@contextmanager
def set_aside(inputs: Sequence[Path]) -> Iterator[None]:
    """Rename an input that turns out to be damaged, so that the same command makes it anew: as long
    as it is there, Snakemake holds it for done.
    """
    try:
        yield
    except DamagedFile as error:
        if error.path in inputs:
            aside = error.path.with_name(f"{error.path.name}.damaged")
            error.path.replace(aside)
            raise DepalmError(
                f"{error.path} was damaged: {error.why}. It is now {aside}: give the same command "
                "again to have it anew"
            ) from error
        raise
