"""Settings, filled with defaults, and the parts that they name, checked before any job."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from depalm.adapters.saved import RECORD, WEIGHTS, read_record
from depalm.adapters.selection import AdapterError
from depalm.config.experiment import Config
from depalm.config.parts import find, places
from depalm.config.run import AXES, Run
from depalm.config.schema import ConfigError, check_schema
from depalm.datasets.manifest import ManifestError, parse_fraction
from depalm.evaluation.metrics import MetricError, require
from depalm.specs import SettingsSpec, nearest
from depalm.specs.base import in_order

LOCAL_PLACES = (
    ("dataset", "root"),
    ("dataset", "media_root"),
    ("backbone", "path"),
    ("llm", "path"),
)


def load_config(settings: Mapping[str, Any], *roots: Path) -> Config:
    """Check `settings` and the parts that it names. Raises ConfigError.

    What it names is looked for in `roots`, then in what ships with depalm (see
    depalm.config.parts).
    """
    filled = with_defaults(settings)
    config = Config(in_order(filled), places(filled["parts"], roots))
    for rule in filled["overrides"]:
        _check_where(config, rule["where"])
    for run in config.runs():
        _check_run(config, run)
    metrics = {
        name for run in config.runs() for name in config.part("dataset", run.dataset)["metrics"]
    }
    try:
        require(sorted(metrics))
    except MetricError as error:
        raise ConfigError(str(error)) from error
    for table in filled["tables"]:
        _check_table(config, table, roots)
    for run in config.runs():  # last, for a wrong name is the likelier reason
        _check_files(config, run)
    return config


def with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` with what they leave out, but for training (see `Config.train_settings`).

    Raises ConfigError with all that is wrong with them.
    """
    spec = cast(SettingsSpec, check_schema(settings, "config", "configuration"))
    said = spec.model_dump(exclude_none=True, exclude={"grid", "overrides", "train", "tables"})
    tables = [table.model_dump(exclude_none=True) for table in spec.tables]
    return {"overrides": [], "train": {}, **settings, **said, "tables": tables}


def _check_where(config: Config, where: Mapping[str, Any]) -> None:
    """An override may be for runs outside the grid, but its names are those of files."""
    for kind in ("dataset", "backbone", "llm", "method"):
        for name in where.get(f"{kind}s", []):
            try:
                config.part(kind, name)
            except ConfigError as error:
                raise ConfigError(f"overrides, where: {error}") from error


def _check_run(config: Config, run: Run) -> None:
    dataset, backbone = config.part("dataset", run.dataset), config.part("backbone", run.backbone)
    if backbone["modality"] not in (dataset["modality"], "none"):
        raise ConfigError(
            f"dataset {run.dataset} is {dataset['modality']}, but backbone {run.backbone} "
            f"is for {backbone['modality']}"
        )
    checkpoint = config.checkpoint(run)
    needed = {dataset["test_split"], *(["train"] if checkpoint is None else [])}
    if not needed <= set(dataset["splits"]):
        raise ConfigError(f"dataset {run.dataset} lacks one of the splits {sorted(needed)}")
    templates = dataset["templates"]
    if isinstance(index := templates.get("selection"), int) and index >= len(templates["texts"]):
        raise ConfigError(
            f"dataset {run.dataset}: templates selects index {index} of {len(templates['texts'])}"
        )
    try:
        parse_fraction(run.fraction)
    except ManifestError as error:
        raise ConfigError(str(error)) from error
    config.train_settings(run)
    _check_method(config, run)


def _check_files(config: Config, run: Run) -> None:
    """Whether what the parts of a run say to be on this machine is there."""
    for kind, place in LOCAL_PLACES:
        name = getattr(run, kind)
        folder = config.part(kind, name).get(place)
        if folder is not None and not Path(folder).exists():
            how = config.part(kind, name).get("obtain")
            told = f"To get it: {' '.join(how.split())}" if how else f"Correct {place} in its YAML"
            raise ConfigError(f"{kind} {name}: {place} {folder} does not exist. {told}")
    checkpoint = config.checkpoint(run)
    if checkpoint is not None:
        _check_checkpoint(config, run, Path(checkpoint))


def _check_method(config: Config, run: Run) -> None:
    method = config.method(run)
    check_schema(
        {"label": run.method, **method}, "method", f"{run.path}, method with its overrides"
    )
    reads = bool(config.adapter(run).source_layers)
    if any(method.get("finetune", {}).get("backbone", {}).values()):
        if not reads:
            raise ConfigError(f"method {run.method!r} tunes a backbone that it does not read")
        if not config.online(run):
            raise ConfigError(
                f"method {run.method!r}: finetune.backbone changes the backbone's tokens, but the "
                "cache holds those of the frozen one: set `features: online` for its runs"
            )
    if reads and config.part("backbone", run.backbone)["loader"] == "disabled":
        raise ConfigError(
            f"method {run.method} reads tokens, but backbone {run.backbone} gives none; it is for "
            "methods such as blind"
        )


def _check_checkpoint(config: Config, run: Run, folder: Path) -> None:
    for name in (WEIGHTS, RECORD):
        if not (folder / name).is_file():
            raise ConfigError(f"{run.path}: its checkpoint {folder} has no {name}")
    if str(folder) == config.settings.get("checkpoint"):
        return  # it fits the run that was asked for, if any: its job will tell
    method = {key: value for key, value in config.method(run).items() if key != "version"}
    llm = config.part("llm", run.llm)
    known: dict[str, Any] = {
        "method": method,
        "llm": {key: llm[key] for key in ("family", "shape")},
    }
    if config.adapter(run).source_layers:
        known["backbone"] = {"shape": config.part("backbone", run.backbone)["shape"]}
    try:
        read_record(folder / RECORD, known)
    except AdapterError as error:
        raise ConfigError(f"{run.path}: {error}") from error


def _check_table(config: Config, table: Mapping[str, Any], roots: Sequence[Path]) -> None:
    for axis in AXES:
        there = {getattr(run, axis) for run in config.runs()}
        for name in table.get(f"{axis}s") or []:
            if name not in there:
                raise ConfigError(
                    f"table {table['name']}: {axis}s names {name!r}, which no run of the grid "
                    f"has{nearest(name, there)}"
                )
    published = table.get("published")
    if published is not None and find(published, roots) is None:
        raise ConfigError(
            f"table {table['name']}: there is no file {places([published], roots)[0]}"
        )
    if table.get("rows") == "methods":
        models: dict[tuple[str, ...], set[str]] = {}
        for run in config.table_runs(table):
            cell = (run.method, run.dataset, run.fraction)
            models.setdefault(cell, set()).add(f"{run.backbone}+{run.llm}")
        for place, used in models.items():
            if len(used) > 1:
                raise ConfigError(
                    f"table {table['name']} has a row for each method, but {' '.join(place)} runs "
                    f"with {', '.join(sorted(used))}: filter its backbones and llms"
                )
