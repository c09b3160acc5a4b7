"""The plan of a configuration, told to people and to programs (`depalm plan`)."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from depalm.config.experiment import Config
from depalm.config.plan import RunPlan
from depalm.config.run import AXES

SHAPES = ("trainable_parameters", "source_layers", "target_layers")


def rows(config: Config) -> Iterator[dict[str, Any]]:
    """For each run of the grid: its axes, its adapter, and the files that it reads and writes.

    `trainable_parameters` is null for a method that tunes a frozen model besides: how many there
    are follows from that model's architecture, and adapter.json tells it after the training.
    """
    counts: dict[int, int | None] = {}  # of a method, backbone and LLM, whose runs share a layout
    for run in config.runs:
        plan = config.plan(run)
        cell = id(plan.layout)
        if cell not in counts:
            counts[cell] = trainable_parameters(plan)
        yield {
            **asdict(run),
            "trainable_parameters": counts[cell],
            "source_layers": plan.layout.source_layers,
            "target_layers": plan.layout.target_layers,
            "reads": plan.reads(),
            "writes": plan.writes(),
        }


def trainable_parameters(plan: RunPlan) -> int | None:
    """Parameters of the adapter, built on the meta device; None if they depend on tuned models."""
    import torch

    from depalm.adapters.adapter import Adapter

    with torch.device("meta"):
        adapter = Adapter(plan.method, plan.backbone.shape, plan.llm.shape)
    return None if adapter.finetune else adapter.trainable_parameters


def as_json(config: Config) -> str:
    """A JSON list with an object for each run."""
    return json.dumps(list(rows(config)), indent=2)


def as_table(config: Config) -> str:
    """A line for each run, without its files."""
    heading = [*AXES, *SHAPES]
    lines = [heading, *([_cell(key, row[key]) for key in heading] for row in rows(config))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cell(key: str, value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "-"
    if value is None:
        return "-"
    return f"{value:,}" if key == "trainable_parameters" else str(value)
