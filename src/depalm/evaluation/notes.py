"""The notes under a table."""

from collections import Counter
from collections.abc import Mapping, Sequence

from depalm.evaluation.metrics import METRICS
from depalm.evaluation.runs import FILTERED, Run, ordered

MISSING = "–"
LISTED = 20  # missing runs that are named


def describe(
    runs: Sequence[Run],
    methods: Sequence[str],
    metrics: Sequence[str],
    averaged: Sequence[str],
    missing: Sequence[str] = (),
) -> list[str]:
    """Notes for the reader: how to read the cells, what is missing and why, what is mixed.

    `metrics` are those of the columns, and `averaged` of those that are averaged, one for each;
    `methods` are those that the table asks for, and `missing` the runs that are not there, in
    words.
    """
    notes = [
        "Mean ± sample standard deviation over seeds; the best mean of a column is bold; "
        f"{MISSING} is missing."
    ]
    if missing:
        lacks = "1 run is missing" if len(missing) == 1 else f"{len(missing)} runs are missing"
        listed = f"Incomplete: {lacks}: {'; '.join(missing[:LISTED])}"
        more = f"; and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        notes.insert(0, f"{listed}{more}.")
    if averaged:
        of = "the columns" if len(averaged) == len(metrics) else "the main metric of each dataset"
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
    without = [method for method in methods if all(run["method"] != method for run in runs)]
    absent = [f"No scores of {', '.join(without)}."] if without else []
    return [*notes, *reasons, *absent, *_mixed_settings(runs), *_mixed_origins(runs)]


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
