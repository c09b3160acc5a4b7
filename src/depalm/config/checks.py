"""What must be true of a configuration beyond the schemas, so that no job fails for it."""

from importlib.util import find_spec
from pathlib import Path

from depalm.adapters.errors import AdapterError
from depalm.adapters.record import RECORD, WEIGHTS, made_of, read_record
from depalm.config.experiment import Config
from depalm.config.lookup import find, places
from depalm.config.paths import RESERVED
from depalm.config.plan import RunPlan
from depalm.config.run import FILTERS
from depalm.config.schema import ConfigError
from depalm.datasets.subsets import ManifestError, parse_fraction
from depalm.evaluation.java import MetricError
from depalm.evaluation.metrics import require
from depalm.specs import TableSpec, nearest
from depalm.specs.settings import WhereSpec

LOCAL_PLACES = (
    ("dataset", "root"),
    ("dataset", "media_root"),
    ("backbone", "path"),
    ("llm", "path"),
)
PARTS = ("dataset", "backbone", "llm", "method")


def check(config: Config, runs_here: bool = True) -> None:
    """Raise ConfigError for what cannot be run; for lack of data, models or programs only if it
    `runs_here`.
    """
    for rule in config.settings.overrides:
        _check_where(config, rule.where)
    for run in config.runs:
        plan = config.plan(run)
        _check_run(plan)
        if config.settings.gpus.shard_llm and plan.method.finetune.llm.any:
            raise ConfigError(
                f"method {run.method!r} tunes the LLM, whose layers gpus.shard_llm spreads over "
                "processes; leave one of them out"
            )
        if config.settings.gpus.shard_llm and plan.llm.quantize is not None:
            raise ConfigError(
                f"llm {run.llm!r} is quantized, and gpus.shard_llm spreads whole weights over "
                "processes; leave one of them out"
            )
    for table in config.settings.tables:
        _check_table(config, table)
    if runs_here:
        _check_here(config)


def _check_here(config: Config) -> None:
    metrics = {name for run in config.runs for name in config.plan(run).dataset.metrics}
    try:
        require(sorted(metrics))
    except MetricError as error:
        raise ConfigError(str(error)) from error
    library = config.settings.tracking
    if library is not None and find_spec(library) is None:
        raise ConfigError(
            f"tracking: {library} is not installed: install depalm with the extra [{library}]"
        )
    quantized = {run.llm for run in config.runs if config.plan(run).llm.quantize is not None}
    if quantized and find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"llm {min(quantized)!r} is quantized by bitsandbytes, which is not installed: install "
            "depalm with the extra [quantize]"
        )
    for run in config.runs:  # last, for a wrong name is the likelier reason
        _check_files(config, config.plan(run))


def _check_where(config: Config, where: WhereSpec) -> None:
    """An override may be for runs outside the grid, but its names are those of files."""
    for kind in PARTS:
        for name in getattr(where, f"{kind}s") or []:
            try:
                config.parts.part(kind, name)
            except ConfigError as error:
                raise ConfigError(f"overrides, where: {error}") from error


def _check_run(plan: RunPlan) -> None:
    run, dataset, backbone = plan.run, plan.dataset, plan.backbone
    if run.dataset in RESERVED:
        raise ConfigError(
            f"a dataset cannot be called {run.dataset!r}: results/{run.dataset} is a folder of "
            "depalm's own; rename its file"
        )
    if backbone.modality not in (dataset.modality, "none"):
        raise ConfigError(
            f"dataset {run.dataset} is {dataset.modality}, but backbone {run.backbone} "
            f"is for {backbone.modality}"
        )
    if "train" not in dataset.splits and not plan.checkpoint:
        raise ConfigError(
            f"dataset {run.dataset} has no split train, so its runs need a trained adapter: set "
            "`checkpoint` to the folder of one"
        )
    index, texts = plan.templates.selection, plan.templates.texts
    if isinstance(index, int) and index >= len(texts):
        raise ConfigError(f"dataset {run.dataset}: templates selects index {index} of {len(texts)}")
    try:
        parse_fraction(run.fraction)
    except ManifestError as error:
        raise ConfigError(str(error)) from error
    _check_backbone(plan)


def _check_backbone(plan: RunPlan) -> None:
    """Check that a run gets the tokens that its method reads."""
    method, tuned = plan.run.method, plan.method.finetune.backbone
    if tuned.linears or tuned.norms:
        if not plan.reads_backbone:
            raise ConfigError(f"method {method!r} tunes a backbone that it does not read")
        if not plan.online:
            raise ConfigError(
                f"method {method!r}: finetune.backbone changes the backbone's tokens, but the "
                "cache holds those of the frozen one: set `features: online` for its runs"
            )
    if plan.reads_backbone and plan.backbone.loader == "disabled":
        raise ConfigError(
            f"method {method} reads tokens, but backbone {plan.run.backbone} gives none; it is for "
            "methods such as blind"
        )


def _check_files(config: Config, plan: RunPlan) -> None:
    """Check that the local paths named in a run's parts exist."""
    for kind, place in LOCAL_PLACES:
        name = getattr(plan.run, kind)
        part = config.parts.part(kind, name)
        folder, how = getattr(part, place), getattr(part, "obtain", None)
        if folder is not None and not Path(folder).exists():
            told = f"To get it: {' '.join(how.split())}" if how else f"Correct {place} in its YAML"
            raise ConfigError(f"{kind} {name}: {place} {folder} does not exist. {told}")
    if plan.checkpoint is not None:
        _check_checkpoint(config, plan, Path(plan.checkpoint))


def _check_checkpoint(config: Config, plan: RunPlan, folder: Path) -> None:
    for name in (WEIGHTS, RECORD):
        if not (folder / name).is_file():
            raise ConfigError(f"{plan.run.path}: its checkpoint {folder} has no {name}")
    if plan.checkpoint == config.settings.checkpoint:
        return  # it fits the run that was asked for, if any: its job will tell
    backbone = plan.backbone if plan.reads_backbone else None
    try:
        read_record(folder / RECORD, made_of(plan.method, backbone, plan.llm))
    except AdapterError as error:
        raise ConfigError(f"{plan.run.path}: {error}") from error


def _check_table(config: Config, table: TableSpec) -> None:
    for axis in FILTERS:
        there = {getattr(run, axis) for run in config.runs}
        for name in getattr(table, f"{axis}s") or []:
            if name not in there:
                raise ConfigError(
                    f"table {table.name}: {axis}s names {name!r}, which no run of the grid "
                    f"has{nearest(name, there)}"
                )
    published = table.published
    if published is not None and find(published, config.roots) is None:
        wanted = places([published], config.roots)[0]
        raise ConfigError(f"table {table.name}: there is no file {wanted}")
    if table.rows == "methods":
        _check_one_model_a_row(config, table)


def _check_one_model_a_row(config: Config, table: TableSpec) -> None:
    models: dict[tuple[str, ...], set[str]] = {}
    for run in config.table_runs(table):
        cell = (run.method, run.dataset, run.fraction)
        models.setdefault(cell, set()).add(f"{run.backbone}+{run.llm}")
    for place, used in models.items():
        if len(used) > 1:
            raise ConfigError(
                f"table {table.name} has a row for each method, but {' '.join(place)} runs "
                f"with {', '.join(sorted(used))}: filter its backbones and llms"
            )
