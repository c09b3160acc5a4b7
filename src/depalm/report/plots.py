"""The plots of a report, as SVG."""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from depalm.evaluation import Column, Comparison, Run, Table, Values, column_titles
from depalm.report.conclusions import row_labels

STYLE = {
    **{"font.size": 9, "axes.spines.top": False, "axes.spines.right": False},
    **{"svg.hashsalt": "depalm", "svg.fonttype": "none", "axes.grid": True, "grid.alpha": 0.25},
}
VALIDATION = "validation_loss"
MARKERS = "osD^vP*X<>hp8"


@dataclass(frozen=True)
class Plot:
    """A plot: what it shows, in a sentence, and its SVG."""

    about: str
    svg: str


@contextmanager
def drawn(width: float = 5.6, height: float = 3.6) -> Iterator[tuple[Axes, list[str]]]:
    """Axes to draw on, and a list that then has the SVG."""
    svg: list[str] = []
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure.subplots(), svg
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    svg.append(text[text.index("<svg") :])


def plots_of(table: Table) -> list[Plot]:
    """Of the main metrics: score against parameters, training time and data; and the rows in their
    order. What one row alone has is not drawn.
    """
    found: list[Plot | None] = []
    main = table.averaged or [column for column in table.columns if not column.part][:1]
    for title, column in zip(column_titles(table.columns), table.columns, strict=True):
        if column not in main or sum(bool(table.cells[r, column].scores) for r in table.rows) < 2:
            continue
        for about, cost in COSTS.items():
            found.append(_against(table, column, title, about, cost))
        if column in table.compared:
            labels, comparison = row_labels(table), table.compared[column]
            found.append(
                order_diagram(labels, title, comparison, comparison.intervals.mean(axis=1))
            )
    found += _by_fraction(table, main)
    if table.overall is not None:
        means = np.array(table.average_scores)
        found.append(order_diagram(row_labels(table), "Average score", table.overall, means))
    return [plot for plot in found if plot is not None]


def _against(
    table: Table, column: Column, title: str, about: str, cost: Callable[[Run], float]
) -> Plot:
    costs = []
    with drawn() as (axes, svg):
        for i, (row, label) in enumerate(zip(table.rows, row_labels(table), strict=True)):
            cell = table.cells[row, column]
            if cell.mean is None or not cell.runs:
                continue
            x = fmean(cost(run) for run in cell.runs)
            costs.append(x)
            around = _half(table, column, i)
            axes.errorbar(
                [x], [cell.mean], yerr=around, fmt=MARKERS[i % len(MARKERS)], label=label, capsize=3
            )
        scale_for(axes, costs)
        axes.set_xlabel(about)
        axes.set_ylabel(title)
        axes.legend(fontsize=7, frameon=False)
    return Plot(f"{title} against {about.lower()}; bars are 95% intervals.", svg[0])


def scale_for(axes: Axes, costs: Sequence[float]) -> None:
    """A scale on which `costs` can be read: a logarithm, with a zero, where they span a decade."""
    low, high = min(costs), max(costs)
    if high >= 10 * max(low, 1.0):
        decades = np.log10(high / max(low, 1.0))
        marks = [mark * 10.0**n for n in range(13) for mark in ((1, 3) if decades < 4 else (1,))]
        axes.set_xscale("symlog", linthresh=1.0)
        axes.set_xticks([0.0] * (low == 0) + [mark for mark in marks if low <= mark <= high])
        axes.minorticks_off()
        spare = 10 ** (decades / 20)
        axes.set_xlim(low / spare if low else -0.3, high * spare)
    if high >= 1000:
        axes.xaxis.set_major_formatter(EngFormatter())


def _half(table: Table, column: Column, row: int) -> float | None:
    comparison = table.compared.get(column)
    if comparison is None:
        return None
    low, high = comparison.intervals[row]
    return float(high - low) / 2 if np.isfinite(high - low) else None


def _by_fraction(table: Table, main: Sequence[Column]) -> list[Plot]:
    """A plot for each dataset that was trained on several fractions."""
    found = []
    for key in dict.fromkeys((c.dataset, c.split, c.metric) for c in main):
        columns = [c for c in main if (c.dataset, c.split, c.metric) == key]
        if len(columns) < 2:
            continue
        x = [float(column.fraction.removesuffix("pct")) for column in columns]
        with drawn() as (axes, svg):
            for i, (row, label) in enumerate(zip(table.rows, row_labels(table), strict=True)):
                means = [table.cells[row, column].mean for column in columns]
                y = [np.nan if mean is None else mean for mean in means]
                axes.plot(x, y, marker=MARKERS[i % len(MARKERS)], label=label)
            axes.set_xscale("log")
            axes.set_xticks(x, [f"{part:g}" for part in x])
            axes.minorticks_off()
            axes.set_xlabel("Training samples (%)")
            axes.set_ylabel(column_titles([columns[0]])[0])
            # beside the axes, where it hides no point
            axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        found.append(Plot(f"{key[0]}: score against the part of the training samples.", svg[0]))
    return found


def order_diagram(
    labels: Sequence[str], title: str, comparison: Comparison, means: Values
) -> Plot | None:
    """The rows in the order of their means; those that cannot be told apart have bars on a line."""
    there = [i for i in np.argsort(-means) if np.isfinite(means[i])]
    if len(there) < 2:
        return None
    groups: dict[str, list[int]] = {}
    for place, i in enumerate(there):
        for letter in comparison.letters[i]:
            groups.setdefault(letter, []).append(place)
    with drawn(height=0.6 + 0.28 * (len(there) + 1)) as (axes, svg):
        for place, i in enumerate(there):
            filled = "black" if comparison.tested[i] else "none"
            axes.plot([means[i]], [place], "o", color="black", markerfacecolor=filled)
        axes.set_yticks(range(len(there)), [labels[i] for i in there])
        axes.invert_yaxis()
        axes.set_xlabel(title)
        axes.margins(x=0.15)
        left = axes.get_xlim()[0]
        step = (axes.get_xlim()[1] - left) * 0.015
        for number, places in enumerate(g for g in groups.values() if len(g) > 1):
            x = left + step * (number + 1)
            axes.plot([x, x], [places[0], places[-1]], lw=0.8, color="tab:blue")
            for place in places:  # a method between them may not be one of them
                axes.plot([x, x], [place - 0.25, place + 0.25], lw=3, color="tab:blue")
    tested = (
        "no two were told apart"
        if not comparison.better.any()
        else ("bars on one line: the tests cannot tell these methods apart")
    )
    if not all(comparison.tested[i] for i in there):
        tested += "; a hollow mark was not tested, for it has one seed"
    return Plot(f"{title}: methods in the order of their means; {tested}.", svg[0])


def curves(runs: Sequence[tuple[str, list[dict[str, float]]]], dataset: str) -> Plot | None:
    """Training loss by step: for each label the mean over its runs, within their range. `runs` are
    labels, each with the lines of a train.jsonl.
    """
    if not runs:
        return None
    with drawn() as (axes, svg):
        for label in dict.fromkeys(label for label, _ in runs):
            logs = [log for name, log in runs if name == label and log]
            length = min(map(len, logs), default=0)
            if not length:
                continue
            losses = np.array([_smooth([row["loss"] for row in log[:length]]) for log in logs])
            steps = [row["step"] for row in logs[0][:length]]
            [line] = axes.plot(steps, losses.mean(axis=0), label=label, lw=1.2)
            colour = line.get_color()
            axes.fill_between(
                steps, losses.min(axis=0), losses.max(axis=0), alpha=0.2, color=colour
            )
            looked = {step: [row[VALIDATION] for row in rows] for step, rows in _validated(logs)}
            means = [fmean(values) for values in looked.values()]
            axes.plot(list(looked), means, "--", marker=".", lw=1, color=colour)
        axes.set_xlabel("Step")
        axes.set_ylabel("Training loss")
        axes.legend(fontsize=7, frameon=False)
    about = f"{dataset}: training loss (moving mean of 5% of the steps); bands span the seeds"
    if any(VALIDATION in row for _, log in runs for row in log):
        about += ", dashed lines are validation losses"
    return Plot(f"{about}.", svg[0])


def _validated(
    logs: Sequence[Sequence[dict[str, float]]],
) -> Iterator[tuple[float, list[dict[str, float]]]]:
    """The lines of each step that has a validation in all logs."""
    by_step = [{row["step"]: row for row in log if VALIDATION in row} for log in logs]
    for step in by_step[0]:
        if all(step in rows for rows in by_step):
            yield step, [rows[step] for rows in by_step]


def _smooth(values: Sequence[float]) -> Values:
    width = max(1, len(values) // 20)
    sums = np.cumsum(np.concatenate(([0.0], values)))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


COSTS: dict[str, Callable[[Run], float]] = {
    "Trainable parameters": lambda run: float(run["trainable_parameters"]),
    "Training time (s)": lambda run: float(run["train_seconds"]),
}
