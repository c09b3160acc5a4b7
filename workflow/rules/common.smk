from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

from depalm.cache.formats import arrays_of
from depalm.cli_tables import write_standing_tables
from depalm.config import paths
from depalm.config.load import load_config
from depalm.config.plan import RunPlan, manifest
from depalm.config.run import AXES, Run
from depalm.config.schema import ConfigError
from depalm.config.store_plan import StorePlan
from depalm.config.targets import check_targets, targets_of
from depalm.config.watch import Watch, redate
from depalm.cost import Cost, CostPlan, expected, line, megabytes, minutes
from depalm.gpus import gpu_for
from depalm.process import not_ours
from depalm.specs import Spec

if workflow.is_main_process and (told := not_ours(Path())):
    raise WorkflowError(told)

try:
    CONFIG = load_config(config, ROOTS, workflow.configfiles)
except ConfigError as error:
    raise WorkflowError(f"configuration: {error}") from None

SETTINGS, PARTS = CONFIG.settings, CONFIG.parts
CACHE = SETTINGS.cache
STORE = StorePlan(CONFIG)
# the jobs of a cluster read this file too: only the process that plans looks for edits
if workflow.is_main_process:
    redate()
    STORE.warn_of_earlier_caches()

WATCH = Watch(CONFIG, looks=workflow.is_main_process and SETTINGS.data.notice_edits)


if SETTINGS.container:

    container: SETTINGS.container


wildcard_constraints:
    **paths.WILDCARDS,


# which executor there is Snakemake knows only after it has read this file
def gpus(count=1) -> int:
    """The GPUs of a job that may have so many."""
    return count * gpu_for(SETTINGS.device, workflow.non_local_exec)


@cache
def costs() -> CostPlan:
    """The costs on the device that jobs take."""
    return CostPlan(CONFIG, "gpu" if gpus() else "cpu")


def on_slurm() -> bool:
    return workflow.non_local_exec and workflow.executor_plugin.name == "slurm"


def counted_gpus(count=1):
    """Resource function: GPUs of a job, out of those that the profile of this machine counts, or as
    an executor is asked for them; Slurm is asked in words of its own.
    """
    return lambda wildcards: 0 if on_slurm() else gpus(count)


def slurm_gpus(count=1):
    """Resource function: what a job asks Slurm for."""
    return lambda wildcards: f"gpu:{gpus(count)}" if on_slurm() and gpus() else ""


def processes(count) -> dict:
    """The processes of a job, by its fields."""
    return {"processes": count, "shard_llm": SETTINGS.gpus.sharded(count)}


def request(ask, stage, cost):
    """Resource function: what a job of a stage asks for, as `ask` says of its cost and attempt."""

    def asked(wildcards, attempt):
        return ask(cost(wildcards), stage, attempt)

    return asked


def extraction(wildcards) -> Cost | None:
    place = {key: wildcards[key] for key in ("dataset", "split", "backbone", "view")}
    return costs().extraction({**place, "arrays": arrays_of(wildcards.layers)})


def training(wildcards) -> Cost | None:
    return costs().training(plan(wildcards))


def tuning(wildcards) -> Cost | None:
    return costs().tuning(cell_plan(wildcards))


def generation(wildcards) -> Cost | None:
    return costs().generation(plan(wildcards))


onstart:
    if told := line(costs()):
        logger.info(told)


def plan(wildcards) -> RunPlan:
    """The plan of the run that a path names; it need not be in the grid."""
    return CONFIG.plan(Run.of(wildcards))


def cell_plan(wildcards) -> RunPlan:
    """The plan of a run of the cell that a path names, which has no seed: the one of its tuning."""
    seed = 0 if SETTINGS.tune is None else SETTINGS.tune.seed
    return CONFIG.plan(Run.of({**dict(wildcards.items()), "seed": seed}))


def of_models(inputs: dict, plan: RunPlan) -> dict:
    """The inputs of a job on models: with their folders as they were fetched, and the state of a
    user's own.
    """
    folders = [folder for folder in plan.folders.values() if folder is not None]
    return {
        **inputs,
        "models": [WATCH.model(state) for state in inputs["models"]],
        "fetched": fetched(*folders, *([plan.media] if plan.online else [])),
    }


def fetched(*folders: str) -> list[str]:
    """The records of those of the folders that rules make. What is in one follows from its record:
    that it was copied or touched is no reason to do anything. A folder that has gone is named too,
    so that it is made again.
    """
    records = {folder: paths.record_of(folder) for folder in folders}
    made = {folder: record for folder, record in records.items() if record is not None}
    gone = [
        folder
        for folder, record in made.items()
        if Path(record).exists() and not Path(folder).exists()
    ]
    return [*made.values(), *gone]


def part_of_kind(wildcards) -> Spec:
    """The dataset, backbone or LLM that a path in resources/ names."""
    return PARTS.part(wildcards.kind.removesuffix("s"), wildcards.part)


def scores(runs) -> list[str]:
    """The scores of runs, each of the test split of its dataset."""
    return [CONFIG.plan(run).scores for run in runs]


def sample_scores(runs) -> list[str]:
    """The scores of those runs' samples."""
    return [CONFIG.plan(run).sample_scores for run in runs]


def inputs_of_seeds(runs):
    """Input function: what the training of runs that differ in the seed reads."""

    def inputs(wildcards):
        plans = [CONFIG.plan(run) for run in runs]
        subsets = [plan.training_inputs()["subset"] for plan in plans]
        return of_models({**plans[0].training_inputs(), "subset": subsets}, plans[0])

    return inputs


def settings_of_seeds(runs):
    """Parameter function: the settings of their training."""
    seeds = {"seeds": [run.seed for run in runs]}
    return lambda wildcards: {**CONFIG.plan(runs[0]).training_settings(), **seeds}


def cost_of_seeds(runs):
    """The cost of their training as one job, by wildcards that it has none of."""

    def cost(wildcards=None):
        one = costs().training(CONFIG.plan(runs[0]))
        return None if one is None else replace(one, work=len(runs) * one.work)

    return cost


def how_of_seeds(runs):
    """Parameter function: what decides no result of their training."""
    plan = CONFIG.plan(runs[0])
    return lambda wildcards, threads: {
        "tracking": SETTINGS.tracking,
        "expected": expected(costs().training(plan)),
    }
