"""Costs told to people: a table, and a line."""

from collections.abc import Iterable, Sequence

from depalm.cache.formats import in_units
from depalm.cost.estimate import STAGES, Cost, CostPlan
from depalm.cost.rates import GPU, layer_speed

NAMES = {"extract": "extraction", "tune": "tuning", "train": "training", "generate": "generation"}
HEADING = (
    "stage",
    "jobs",
    "of them left",
    "{device} hours",
    "left",
    "longest job",
    "memory",
    "disk",
)


def as_table(plan: CostPlan) -> str:
    """A line for each stage and for all, and what the figures rest on."""
    costs = list(plan.costs())
    rows = [[title.format(device=plan.device.upper()) for title in HEADING]]
    for stage in STAGES:
        if found := [cost for cost in costs if cost.stage == stage]:
            rows.append([NAMES[stage], *_cells(found, plan.device)])
    if costs:
        rows.append(["in all", *_cells(costs, plan.device)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, "", *_grounds(plan)])


def line(plan: CostPlan) -> str:
    """What is left to do, in a line; empty if that is nothing."""
    left = [cost for cost in plan.costs() if not cost.done]
    unknown = plan.unknown()
    if not left:
        return f"the cost is not known before there is {', '.join(unknown)}" if unknown else ""
    parts = ", ".join(
        f"{NAMES[stage]} {_hours(found, plan.device)}"
        for stage in STAGES
        if (found := [cost for cost in left if cost.stage == stage])
    )
    disk = in_units(round(sum(cost.disk for cost in left)))
    more = f"; not counted: what {', '.join(unknown)} will list" if unknown else ""
    return (
        f"about {_hours(left, plan.device)} {plan.device.upper()} hours are left to do ({parts}), "
        f"and {disk} to write{more}; `depalm plan --cost` tells more"
    )


def _cells(costs: Sequence[Cost], device: str) -> list[str]:
    left = [cost for cost in costs if not cost.done]
    longest = max(cost.seconds / cost.jobs for cost in costs)
    return [
        f"{sum(cost.jobs for cost in costs):,}",
        f"{sum(cost.jobs for cost in left):,}",
        _hours(costs, device),
        _hours(left, device),
        f"{longest / 3600:.2f} h" if longest >= 3600 else f"{longest / 60:.1f} min",
        in_units(round(max(cost.memory for cost in costs))),
        in_units(round(sum(cost.disk for cost in costs))),
    ]


def _hours(costs: Iterable[Cost], device: str) -> str:
    """Hours of a GPU that a job has for itself, or of CPU threads."""
    threads = (1 if device == "gpu" else cost.threads for cost in costs)
    hours = sum(c.seconds * c.processes * t for c, t in zip(costs, threads, strict=True)) / 3600
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2f}"


def _grounds(plan: CostPlan) -> list[str]:
    """What the figures rest on."""
    stages = [stage for stage in STAGES if stage != "tune"]  # which is training
    known = {key[0] for key in plan.rates.measured}
    measured = [NAMES[stage] for stage in stages if stage in known]
    assumed = [NAMES[stage] for stage in stages if stage not in known]
    notes = []
    if measured:
        notes.append(f"Speed of {', '.join(measured)}: as earlier jobs here have measured it.")
    if assumed:
        of = (
            f"that of an H100, {GPU['bfloat16'] / 1e12:.0f} TFLOP/s in bfloat16 and "
            f"{GPU['tf32'] / 1e12:.0f} in TF32"
            if plan.device == "gpu"
            else f"from layers computed on this machine, {layer_speed() / 1e9:.0f} GFLOP/s"
        )
        notes.append(f"Speed of {', '.join(assumed)}: assumed, {of}.")
    notes.append("Memory is right within a factor of two. Downloads and scores are not counted.")
    notes += [
        f"Not counted: what {path} will list, for the dataset does not say its `size`."
        for path in plan.unknown()
    ]
    return notes
