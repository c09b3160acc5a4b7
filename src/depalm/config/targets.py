"""Files that somebody asks for on the command line, and that no rule makes."""

import difflib
import re
from collections.abc import Callable, Sequence

from depalm.config import paths
from depalm.config.experiment import Config
from depalm.config.plan import manifest
from depalm.config.run import Run
from depalm.config.schema import ConfigError

OF_RUN = re.compile(
    re.sub(r"\\{(\w+)\\}", lambda found: f"(?P<{found[1]}>[^/]+?)", re.escape(paths.RUN)) + "/.+"
)


def targets_of(arguments: Sequence[str]) -> list[str]:
    """The files below results/ that a command line of Snakemake asks for: it tells nobody the
    targets before it has read the rules. What follows an option may be its value, and is left out.
    """
    after = zip(["", *arguments], arguments, strict=False)
    return [
        name
        for before, name in after
        if name.startswith(f"{paths.RESULTS}/") and (before == "--" or not before.startswith("--"))
    ]


def check_targets(config: Config, targets: Sequence[str], is_made: Callable[[str], bool]) -> None:
    """Raise ConfigError for a target that no rule makes, with the nearest path that one makes; or
    for that of a run that cannot be: of an unknown dataset, backbone, LLM or method.

    `is_made` says whether the outputs of some rule match.
    """
    for target in targets:
        run = _run_of(target)
        if run is not None:
            config.plan(run)
        if not is_made(target):
            near = difflib.get_close_matches(target, _known(config, target, run), n=1)
            advice = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"no rule makes {target}{advice}")


def _run_of(target: str) -> Run | None:
    found = OF_RUN.fullmatch(target)
    if found is None or not found["seed"].isdecimal():
        return None
    return Run.of(found)


def _known(config: Config, target: str, run: Run | None) -> list[str]:
    """Files that rules make: those of its run, or of the runs with the nearest folders."""
    found = [name for table in config.settings.tables for name in paths.table_files(table.name)]
    datasets = dict.fromkeys(run.dataset for run in config.runs)
    found += [manifest(name, split) for name in datasets for split in ("train", "val", "test")]
    runs = {run.path: run for run in config.runs} if run is None else {run.path: run}
    folder = target.rpartition("/")[0]
    for path in difflib.get_close_matches(folder, runs, n=3, cutoff=0.3):
        found += config.plan(runs[path]).writes()
    return found
