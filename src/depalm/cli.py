"""The command line: what a rule of the workflow runs, without Snakemake."""

import argparse
import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from depalm import __version__
from depalm.cli_add import add_add
from depalm.cli_cache import add_commands
from depalm.cli_chat import add_chat
from depalm.cli_options import add_configfile
from depalm.cli_predict import add_predict
from depalm.cli_share import add_push
from depalm.cli_tables import add_tables
from depalm.cli_verify import add_verify
from depalm.gpus import gpu_for
from depalm.jobs import JOBS, Job, hints_of, is_required, told
from depalm.process import readers_may_leave, reported
from depalm.specs import SPECS

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
    with reported(options.log), readers_may_leave():
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
    add_add(commands)
    add_plan(commands)
    add_tables(commands)
    add_predict(commands)
    add_chat(commands)
    add_push(commands)
    add_verify(commands)
    add_schema(commands)
    add_commands(commands)
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


def add_plan(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command that shows what a configuration runs."""
    summary = "Check a configuration and show its runs."
    text = (
        "Says all that is wrong with the configuration, or else prints a line for each run: "
        "dataset, fraction, backbone, llm, method, seed, trainable_parameters (- for a method that "
        "tunes a frozen model besides), source_layers and target_layers. --json adds the files "
        "that each run reads and writes. --cost tells what the runs take instead: hours, memory "
        "and disk, by what earlier jobs have measured (docs/index.md#cost). Parts are looked for "
        "in this folder, then in what ships with depalm."
    )
    command = commands.add_parser(
        "plan",
        help=summary,
        description=f"{summary}\n\n{textwrap.fill(text, 90)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_configfile(command)
    shown = command.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print JSON, with each run's files")
    shown.add_argument("--cost", action="store_true", help="print hours, memory and disk")
    command.add_argument(
        "--on", choices=("cpu", "gpu"), help="with --cost: by default a GPU if there is one here"
    )
    command.set_defaults(run=_plan, log=None)


def _plan(options: argparse.Namespace) -> None:
    from depalm.config.load import load_files
    from depalm.config.report import as_json, as_table

    config = load_files(options.configfile, [Path()], runs_here=not options.cost)
    if options.cost:
        from depalm.cost import CostPlan
        from depalm.cost import as_table as as_cost_table

        device = options.on or ("gpu" if gpu_for(config.settings.device) else "cpu")
        print(as_cost_table(CostPlan(config, device)))
    else:
        print(as_json(config) if options.json else as_table(config))


def add_schema(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command that prints what YAML may say, for editors that complete and check it."""
    summary = "Print the JSON schema of a kind of YAML file."
    command = commands.add_parser("schema", help=summary, description=summary)
    command.add_argument("kind", choices=SPECS, help="what the file is about")
    command.set_defaults(run=_schema, log=None)


def _schema(options: argparse.Namespace) -> None:
    from depalm.config.schema import json_schema

    print(json.dumps(json_schema(options.kind), indent=2))


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
