from pathlib import Path

import torch

from depalm.config import ConfigError, Run, load_config

try:
    CONFIG = load_config(config, Path(workflow.basedir))
except ConfigError as error:
    raise WorkflowError(f"configuration: {error}") from None

RUN = "results/{dataset}/runs/{fraction}/{backbone}+{llm}/{method}/seed{seed}"
CACHE = "results/{dataset}/cache/{backbone}/view{view}/{split}"
RUN_AXES = ("dataset", "fraction", "backbone", "llm", "method")
# GPUs of a job; on a cluster, `auto` means that its nodes have some
ON_GPU = {"cpu": False, "auto": workflow.non_local_exec or torch.cuda.is_available()}
GPU = int(ON_GPU.get(config["device"], True))


wildcard_constraints:
    kind="datasets|backbones|llms",
    part=r"[^/]+",
    dataset=r"[^/]+",
    backbone=r"[^/+]+",
    llm=r"[^/+]+",
    method=r"[^/]+",
    fraction=r"[0-9.]+pct",
    seed=r"[0-9]+",
    split="train|val|test",
    view=r"[0-9]+",
    shard=r"[0-9]+",
    shards=r"[0-9]+",
    table=r"[A-Za-z0-9_-]+",


def run_of(wildcards) -> Run:
    """The run that a path names; it need not be in the grid."""
    return Run(*(wildcards[axis] for axis in RUN_AXES), int(wildcards.seed))


def test_split(dataset: str) -> str:
    return CONFIG.part("dataset", dataset)["test_split"]


def shards(dataset: str, backbone: str, split: str, views: list[int]) -> list[str]:
    """The shards of some views of a split: those of one view after those of another."""
    n = config["cache"]["shards"]
    return [
        f"{CACHE}/shard-{i}-of-{n}.zarr".format(
            dataset=dataset, backbone=backbone, split=split, view=view
        )
        for view in views
        for i in range(n)
    ]


def run_shards(split: str):
    """Input function: the shards that a run reads of `split` (None: its test split); blind reads none."""

    def shards_of(wildcards) -> list[str]:
        if not CONFIG.adapter(run_of(wildcards)).source_layers:
            return []
        views = [0] if split is None else CONFIG.training_views
        return shards(wildcards.dataset, wildcards.backbone, split or wildcards.split, views)

    return shards_of


def part(kind: str):
    """Parameter function: the content of a part's file, so that editing it reruns what depends on it."""
    return lambda wildcards: CONFIG.part(kind, wildcards[kind])


def part_of_kind(wildcards) -> dict:
    return CONFIG.part(wildcards.kind.removesuffix("s"), wildcards.part)


def table_spec(wildcards) -> dict:
    return next(table for table in CONFIG.settings["tables"] if table["name"] == wildcards.table)


def table_scores(wildcards) -> list[str]:
    """The scores of the runs that the filters of a table let through."""
    table = table_spec(wildcards)
    filters = {axis: table[f"{axis}s"] for axis in RUN_AXES if table.get(f"{axis}s")}
    return [
        f"{run.path}/{test_split(run.dataset)}.scores.json"
        for run in CONFIG.runs()
        if all(getattr(run, axis) in names for axis, names in filters.items())
    ]
