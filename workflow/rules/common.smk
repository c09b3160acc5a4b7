import os
from pathlib import Path

import torch

from depalm.config.run import AXES, Run
from depalm.config.load import load_config
from depalm.config.schema import ConfigError, load_yaml
from depalm.cache.store import FORMATS

try:
    for path in workflow.configfiles:
        load_yaml(Path(path))  # Snakemake has read it, but lets a key stand twice
    CONFIG = load_config(config, *ROOTS)
    config = {**config, **CONFIG.settings}  # anew, for the old one may be another workflow's
except ConfigError as error:
    raise WorkflowError(f"configuration: {error}") from None

RUN = "results/{dataset}/runs/{fraction}/{backbone}+{llm}/{method}/seed{seed}"
CACHE = "results/{dataset}/cache/{backbone}/view{view}/{split}"
SHARD = f"{CACHE}/shard-{{shard}}-of-{{shards}}"
FORMAT = config["cache"]["format"]
SUFFIX = FORMATS[FORMAT].suffix
STREAM = config["cache"]["stream"]


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


def on_gpu() -> bool:
    """Whether jobs get a GPU; on a cluster `auto` means that it has some."""
    available = workflow.non_local_exec or torch.cuda.is_available()
    return {"cpu": False, "auto": available}.get(config["device"], True)


# which executor there is Snakemake knows only after it has read this file
def local_gpus(wildcards) -> int:
    """Resource function: GPUs of a job on this machine, out of those that its profile counts."""
    return int(on_gpu() and not workflow.non_local_exec)


def cluster_gpus(wildcards) -> str:
    """Resource function: what a job asks the scheduler of a cluster for."""
    return "gpu:1" if on_gpu() and workflow.non_local_exec else ""


def run_of(wildcards) -> Run:
    """The run that a path names; it need not be in the grid."""
    return Run(*(wildcards[axis] for axis in AXES), int(wildcards.seed))


def test_split(dataset: str) -> str:
    return CONFIG.part("dataset", dataset)["test_split"]


def reads_cache(run: Run) -> bool:
    """Whether a run reads a cache: not if it is blind, or has its backbone in the loop."""
    return bool(CONFIG.adapter(run).source_layers) and not CONFIG.online(run)


def splits_read(run: Run) -> list[tuple[str, list[int]]]:
    """The splits, each with its views, of which a run reads a cache: to be trained, unless it has a
    checkpoint, and to be tested."""
    if not reads_cache(run):
        return []
    trained = [] if CONFIG.checkpoint(run) else [("train", CONFIG.training_views)]
    return [*trained, (test_split(run.dataset), [0])]


def shards(dataset: str, backbone: str, split: str, views: list[int]) -> list[str]:
    """The shards of some views of a split: those of one view after those of another."""
    n = config["cache"]["shards"]
    return [
        f"{SHARD}{SUFFIX}".format(
            dataset=dataset, backbone=backbone, view=view, split=split, shard=i, shards=n
        )
        for view in views
        for i in range(n)
    ]


def caches() -> list[dict]:
    """The caches that the runs read from this disk: dataset, backbone and its shape, view, split,
    layers in full."""
    read = dict.fromkeys(
        (run.dataset, run.backbone, view, split)
        for run in CONFIG.runs()
        if not STREAM
        for split, views in splits_read(run)
        for view in views
    )
    return [
        {
            "dataset": dataset,
            "backbone": backbone,
            "shape": CONFIG.part("backbone", backbone)["shape"],
            "view": view,
            "split": split,
            "layers": CONFIG.layers(dataset, backbone),
        }
        for dataset, backbone, view, split in read
    ]


def run_shards(split: str | None, streamed: bool = False):
    """Input function: the shards that a run reads of `split` (None: its test split); and, where they
    are streamed, the parameter function that gives their URLs instead."""

    def shards_of(wildcards) -> list[str]:
        if streamed != STREAM or not reads_cache(run_of(wildcards)):
            return []
        views = [0] if split is None else CONFIG.training_views
        paths = shards(wildcards.dataset, wildcards.backbone, split or wildcards.split, views)
        if not STREAM:
            return paths
        root = config["cache"]["url"].rstrip("/")
        return [f"{root}/{path.removeprefix('results/')}" for path in paths]

    return shards_of


def run_backbone(wildcards) -> list[str]:
    """Input function: the weights of the backbone that a run reads; blind reads none."""
    if not CONFIG.adapter(run_of(wildcards)).source_layers:
        return []
    return [CONFIG.model_directory("backbone", wildcards.backbone)]


def run_media(wildcards) -> list[str]:
    """Input function: where the media files are that a run with its backbone in the loop reads."""
    run = run_of(wildcards)
    if not (CONFIG.online(run) and CONFIG.adapter(run).source_layers):
        return []
    return [CONFIG.media_directory(wildcards.dataset)]


def decoding(dataset: str, *keys: str) -> dict:
    """How files are decoded, as far as a result depends on it, and those of `keys` in `cache`."""
    chosen = {
        key: config["cache"][key] for key in ("decode_seconds", *keys) if key in config["cache"]
    }
    return {**chosen, "max_reject_fraction": CONFIG.max_reject_fraction(dataset)}


def run_decoding(wildcards) -> dict:
    """Parameter function: how those files are decoded."""
    return decoding(wildcards.dataset) if run_media(wildcards) else {}


def adapter_file(name: str):
    """Input function: a file of the adapter that a run trains, or of its `checkpoint`."""

    def path(wildcards) -> str:
        run = run_of(wildcards)
        return f"{CONFIG.checkpoint(run) or run.path}/{name}"

    return path


def part(kind: str):
    """Parameter function: the content of a part's file, so that editing it reruns what depends on it."""
    return lambda wildcards: CONFIG.part(kind, wildcards[kind])


def part_of_kind(wildcards) -> dict:
    return CONFIG.part(wildcards.kind.removesuffix("s"), wildcards.part)


def table_spec(wildcards) -> dict:
    return next(table for table in CONFIG.settings["tables"] if table["name"] == wildcards.table)


def table_scores(wildcards) -> list[str]:
    """The scores of the runs that a table shows."""
    return [
        f"{run.path}/{test_split(run.dataset)}.scores.json"
        for run in CONFIG.table_runs(table_spec(wildcards))
    ]


def table_published(wildcards) -> list[str]:
    """The scores that stand beside those of a table.

    The path is relative: in another clone it is the same.
    """
    name = table_spec(wildcards).get("published")
    return [os.path.relpath(find(name, ROOTS))] if name else []


def init_adapter(wildcards) -> list[str]:
    """The adapter that a run starts from (`train.init_from`), which may be another run's."""
    folder = CONFIG.train_settings(run_of(wildcards)).get("init_from")
    return [f"{folder}/adapter.{kind}" for kind in ("safetensors", "json")] if folder else []
