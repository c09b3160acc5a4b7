"""The command line: what a rule of the workflow runs, without Snakemake."""

import argparse
import re
import textwrap
from collections.abc import Sequence
from dataclasses import fields

from depalm import __version__
from depalm.jobs import JOBS, Job
from depalm.jobs.job import hints_of, is_required, told
from depalm.process import reported

DESCRIPTION = """\
Adapters between frozen backbones and frozen LLMs: the single jobs of the workflow, without
Snakemake. A job is a JSON file that says what is read, what is written, and all settings between.

Snakemake writes the job of everything that it runs beside the job's log. To run one again, in the
folder where Snakemake ran:

  depalm train logs/train/easy-vqa/100pct/dinov2-S+smollm2-135m/qp_l0/seed0.json
  python -m pdb -m depalm train JOB.json    the same under a debugger

`depalm COMMAND --help` explains the keys of a job. Whole experiments are run by `snakemake`.
"""
ENDS = (
    "The exit code is 0, or 1 after an error, which is told in one line; a bug ends in a traceback."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command of `arguments`, by default those of the process."""
    options = parser().parse_args(arguments)
    # standard input stays open, for a debugger reads it
    with reported(options.log):
        options.run(options)


def parser() -> argparse.ArgumentParser:
    program = argparse.ArgumentParser(
        "depalm",
        description=DESCRIPTION,
        epilog=ENDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    program.add_argument("--version", action="version", version=__version__)
    commands = program.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for kind in JOBS.values():
        add_job(commands, kind)
    # commands that are no jobs, such as `plan` and `schema`, are added here
    return program


def add_job(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", kind: type[Job]
) -> None:
    """Add the command of a job, which its docstring explains."""
    summary, text = explained(kind)
    command = commands.add_parser(
        kind.command,
        help=summary,
        description=f"{summary}\n\n{text}\n\nkeys of the job:\n{keys(kind)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("job", metavar="JOB.json", help="the job; its paths start from here")
    command.add_argument("--log", metavar="FILE", help="append the log to FILE too")
    command.set_defaults(run=lambda options: kind.from_file(options.job).run())


def explained(kind: type[Job]) -> tuple[str, str]:
    """The first sentence of a job's docstring, and the others, filled to lines."""
    summary, _, text = (kind.__doc__ or "").partition("\n\n")
    return summary.strip(), textwrap.fill(re.sub(r"\s+", " ", text.strip()), 90)


def keys(kind: type[Job]) -> str:
    """A line for each field: name, type, and whether it may be left out."""
    hints = hints_of(kind)
    width = max(map(len, hints))
    return "\n".join(
        f"  {field.name:{width}}  {told(hints[field.name])}"
        + ("" if is_required(field) else ", may be left out")
        for field in fields(kind)
    )
