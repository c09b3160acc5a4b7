"""The notes under a table."""

from collections import Counter
from collections.abc import Sequence

from depalm.evaluation.metrics import METRICS
from depalm.evaluation.runs import FILTERED, Run, ordered

MISSING = "–"


def describe(runs: Sequence[Run], methods: Sequence[str], metrics: Sequence[str]) -> list[str]:
    """Notes for the reader: how to read the cells, what is missing and why, mixed origins.

    `metrics` are those of the columns, one for each; `methods` those that the table asks for.
    """
    notes = [
        "Mean ± sample standard deviation over seeds; the best mean of a column is bold; "
        f"{MISSING} is missing."
    ]
    if len(metrics) > 1:
        notes.append(
            "Average score: mean over the columns of 100 × value / best value of the column, a "
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
    return [*notes, *reasons, *absent, *_mixed_origins(runs)]


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
            values = ", ".join(f"{value} ({n} run{'s' * (n > 1)})" for value, n in counts.items())
            notes.append(f"Mixed provenance: the runs differ in {part}: {values}.")
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
