"""The notes under a table."""

from collections import Counter
from collections.abc import Mapping, Sequence

from depalm.evaluation.cells import Table
from depalm.evaluation.metrics import METRICS
from depalm.evaluation.runs import FILTERED, Run, ordered
from depalm.evaluation.statistics import LEVEL

MISSING = "–"
LISTED = 20  # missing runs that are named
TUNED = {"lr": "learning rate", "steps": "steps"}  # settings that may be chosen


def describe(table: Table, runs: Sequence[Run], missing: Sequence[str] = ()) -> list[str]:
    """Notes for the reader: how to read the cells, what is missing and why, what is mixed.

    `runs` are those of the table, and `missing` those that are not there, in words.
    """
    notes = []
    if missing:
        lacks = "1 run is missing" if len(missing) == 1 else f"{len(missing)} runs are missing"
        listed = f"Incomplete: {lacks}: {'; '.join(missing[:LISTED])}"
        more = f"; and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        notes.append(f"{listed}{more}.")
    notes.append(_cells(table))
    notes += _differences(table)
    metrics = [column.metric for column in table.columns]
    if averaged := table.averaged:
        every = len(averaged) == len(table.columns)
        of = "the columns" if every else "the main metric of each dataset"
        notes.append(
            f"Average score: mean over {of} of 100 × value / best value of the column, a "
            "missing value counts 0. Average rank: a missing value ranks last."
        )
    reasons = dict.fromkeys(
        f"{run['dataset']}, {METRICS[name].title}: {reason}."
        for run in runs
        for name, reason in run.get("unavailable", {}).items()
        if name in metrics
    )
    wanted = table.spec.methods or []
    without = [method for method in wanted if all(run["method"] != method for run in runs)]
    absent = [f"No scores of {', '.join(without)}."] if without else []
    mixed = (*_mixed_settings(runs), *_mixed_origins(runs))
    return [*notes, *reasons, *absent, *_tuned(runs), *mixed]


def _cells(table: Table) -> str:
    """How to read a cell."""
    if table.spec.spread == "interval":
        around = "with its 95% interval over seeds and samples"
    else:
        around = "± sample standard deviation over seeds"
    each = " (each seed)" if table.spec.per_seed else ""
    lacks = any(cell.mean is None for cell in table.cells.values())
    return f"Mean {around}{each}{f'; {MISSING} is missing' if lacks else ''}."


def _differences(table: Table) -> list[str]:
    """What is said of differences: by what test, or why nothing is."""
    compared = [*table.compared.values()]
    if len(table.rows) < 2:
        return []
    if not compared:
        return ["Differences were not tested: there are no scores of single samples."]
    notes = []
    tested = [comparison.tested.any() for comparison in compared]
    if any(tested):
        found = any(comparison.better.any() for comparison in compared)
        what = (
            "rows of a column that share a letter cannot be told apart. Bold, italic and "
            "underlined are first, second and third: one more than the rows that are better"
            if found
            else "no two rows of a column can be told apart"
        )
        notes.append(
            f"By paired t tests over seeds and samples (Holm's correction, {LEVEL:.0%} in a "
            f"column), {what}."
        )
    if not all(comparison.tested.all() for comparison in compared):
        notes.append("Without a test: a row with one seed, for another seed might score otherwise.")
    return notes


def _tuned(runs: Sequence[Run]) -> list[str]:
    """How the settings of methods were chosen, what was, and on which budget."""
    groups: dict[str, dict[str, None]] = {}
    for run in runs:
        if (tuned := run.get("tuned")) is None:
            continue
        among = "; ".join(
            f"{TUNED[key]} of {', '.join(f'{value:g}' for value in values)}"
            for key, values in tuned["candidates"].items()
        )
        how = (
            f"Tuned, each method on the same budget of {tuned['steps_spent']:,} steps: {among}, by "
            f"the loss on {tuned['held_out']:,} training samples that were held out (successive "
            "halving)"
        )
        chosen = ", ".join(f"{TUNED[key]} {value:g}" for key, value in tuned["chosen"].items())
        fraction = run["fraction"].replace("pct", "%")
        where = f"{run['label']} ({run['dataset']} {fraction}, {run['backbone']}, {run['llm']})"
        groups.setdefault(how, {})[f"{where}: {chosen}"] = None
    notes = [f"{how}. Chosen were {'; '.join(chosen)}." for how, chosen in groups.items()]
    count = sum("tuned" in run for run in runs)
    if 0 < count < len(runs):
        notes.append(f"Mixed settings: {count} of {len(runs)} runs were tuned.")
    return notes


def _mixed_settings(runs: Sequence[Run]) -> list[str]:
    """A note for each column whose runs were trained for different numbers of steps, or tested on
    other numbers of samples, and one for each precision that differs.
    """
    notes = []
    columns: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        columns.setdefault((run["dataset"], run["split"], run["fraction"]), []).append(run)
    for (dataset, split, fraction), found in columns.items():
        where = f"{dataset}, {fraction.replace('pct', '%')}"
        steps = Counter(f"{run['steps']:,}" for run in found)
        tested = Counter(f"{run['samples'] + run['rejects']:,}" for run in found)
        for what, counts in (("training steps", steps), (f"samples of {split}", tested)):
            if len(counts) > 1:
                notes.append(
                    f"Mixed settings: on {where} the runs differ in {what}: {_by(counts)}."
                )
    for key, what in (("train_dtype", "training"), ("generate_dtype", "generation")):
        counts = Counter(run.get(key) or "unknown" for run in runs)
        if len(counts) > 1:
            notes.append(
                f"Mixed settings: the runs differ in the LLM's precision in {what}: {_by(counts)}."
            )
    return notes


def _by(counts: Mapping[str, int]) -> str:
    """Values, each with the number of runs that have it."""
    return ", ".join(f"{value} ({n} run{'s' * (n > 1)})" for value, n in counts.items())


def _mixed_origins(runs: Sequence[Run]) -> list[str]:
    """A note for each of commit, device and packages that differs among the runs, and for each
    method whose seeds were trained with different configurations.
    """
    origins = []
    for run in runs:
        commit, *dirty = run["commit"].partition("+")
        origin = {
            "commit": commit[:12] + "".join(dirty),
            "device": run["device"],
        }
        origins.append({**origin, **run["versions"]})
    notes = []
    for part in ordered(part for origin in origins for part in origin):
        counts = Counter(origin.get(part, "none") for origin in origins)
        if len(counts) > 1:
            notes.append(f"Mixed provenance: the runs differ in {part}: {_by(counts)}.")
    configurations: dict[tuple[str, ...], set[str]] = {}
    for run in runs:
        key = tuple(run[part] for part in FILTERED)
        configurations.setdefault(key, set()).add(run["config_sha256"])
    notes += [
        f"Mixed provenance: the seeds of {', '.join(key)} differ in configuration."
        for key, found in configurations.items()
        if len(found) > 1
    ]
    return notes
