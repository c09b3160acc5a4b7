"""The command `depalm tables`: tables of the runs that are there."""

import argparse
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from depalm.cli_options import add_configfile
from depalm.config import paths
from depalm.config.experiment import Config
from depalm.config.load import load_files
from depalm.config.plan import RunPlan
from depalm.errors import DamagedFile
from depalm.files import read_checked
from depalm.progress import logger
from depalm.specs import ReportPart, TableSpec


def write_standing_tables(config: Config, every: bool = True) -> None:
    """Write the tables of `config` from the scores that stand, with the runs named that are
    missing; `every` table, or those alone that lack some.

    A table without any score is removed: an old one would look as if it were of today. Raises
    TableError.
    """
    for table in config.settings.tables:
        standing, missing = scores_of(config, table)
        outputs = [Path(file) for file in paths.table_files(table.name)]
        if standing and (missing or every):
            _write(config, table, standing, missing, outputs)
            told = f"without {len(missing)} runs that are missing" if missing else "whole"
            logger.info("%s: of %d runs, %s", outputs[1], len(standing), told)
        elif not standing:
            for path in outputs:
                path.unlink(missing_ok=True)
            logger.info("table %s: there is no score yet", table.name)
    write_standing_report(config, every)


def write_standing_report(config: Config, every: bool) -> None:
    """Write the report of `config` from the scores that stand, or remove it if there are none;
    unless `every`, only if some are missing.
    """
    parts: list[ReportPart] = []
    for table in config.settings.tables:
        standing, missing = scores_of(config, table)
        if standing:
            parts.append(config.report_part(table, standing, in_words(missing)))
    output, shown = Path(paths.REPORT), Path(paths.SHOWN)
    if parts and (every or any(part.missing for part in parts)):
        from depalm.report import write_report

        write_report(parts, config.report_media(), output, shown)
    elif not parts:
        output.unlink(missing_ok=True)
        shutil.rmtree(shown, ignore_errors=True)


def _write(
    config: Config,
    table: TableSpec,
    standing: Sequence[str],
    missing: Mapping[str, str],
    outputs: Sequence[Path],
) -> None:
    from depalm.evaluation.render import write_table

    for path in outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
    published = next(iter(config.published(table.name)), None)
    write_table(standing, table, outputs, published, in_words(missing))


def in_words(missing: Mapping[str, str]) -> list[str]:
    """Runs that are missing, each with the reason."""
    return [f"{run} ({reason})" for run, reason in missing.items()]


def scores_of(config: Config, table: TableSpec) -> tuple[list[str], dict[str, str]]:
    """The scores of a table's runs that stand, and of the others the reason, by their folders."""
    plans = [config.plan(run) for run in config.table_runs(table)]
    reasons = {plan.run.path: fallen(plan) for plan in plans}
    standing = [plan.scores for plan in plans if not reasons[plan.run.path]]
    return standing, {run: reason for run, reason in reasons.items() if reason}


def fallen(plan: RunPlan) -> str:
    """Why the scores of a run do not stand; empty if they do.

    They stand if they are there, of the settings that the configuration has now, and with all that
    they were made of: Snakemake removes what it is about to make again.
    """
    if not Path(plan.scores).is_file():
        return "it has no scores"
    if told := damage(plan):
        return told
    found = read_checked(plan.scores).get("config_sha256")
    if not plan.checkpoint and found != plan.settings_sha256:
        return "its scores are of other settings"
    gone = [file for file in [*plan.reads_files(), *plan.writes()] if not Path(file).exists()]
    return f"{gone[0]} is to be made again" if gone else ""


def damage(plan: RunPlan) -> str:
    """What is wrong with the file of a run's scores; empty if it is whole, or not there."""
    try:
        read_checked(plan.scores)
    except FileNotFoundError:
        return ""
    except DamagedFile as error:
        return f"its scores are damaged: {error.why}"
    return ""


def add_tables(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command that makes tables of the runs that are there."""
    summary = "Make the tables of a configuration from the runs that are there."
    text = (
        "Writes results/tables, in the folder where Snakemake ran, from the scores that stand: "
        "those of today's settings, whose inputs are there. The other runs are named under each "
        "table. Snakemake does so itself when it ends with an error; it makes a whole table when "
        "all runs are done."
    )
    command = commands.add_parser(
        "tables",
        help=summary,
        description=f"{summary}\n\n{textwrap.fill(text, 90)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_configfile(command)
    command.set_defaults(run=_tables, log=None)


def _tables(options: argparse.Namespace) -> None:
    write_standing_tables(load_files(options.configfile, [Path()]))
