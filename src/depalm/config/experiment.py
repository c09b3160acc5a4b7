"""A checked configuration: the settings, the parts that they name, and the plan of each run."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, reduce
from itertools import product
from pathlib import Path
from typing import Any

from depalm.adapters.errors import AdapterError, ConnectorError
from depalm.adapters.layout import Layout, layout
from depalm.config import paths
from depalm.config.lookup import find
from depalm.config.parts import Parts
from depalm.config.plan import RunPlan
from depalm.config.run import AXES, FILTERS, Run
from depalm.config.schema import ConfigError, validated
from depalm.specs import MethodSpec, ReportPart, SettingsSpec, TableSpec, Templates, TrainSpec
from depalm.specs.settings import OverrideSpec
from depalm.specs.train import LENGTH, TRAIN_DEFAULTS

Cell = tuple[str, str, str, tuple[int, ...]]  # method, backbone, LLM, indices of overrides


@dataclass(frozen=True)
class Config:
    """Settings and parts, from which follows the plan of any run, in the grid or not.

    Files that the settings name are looked for in `roots`: see depalm.config.lookup.
    """

    settings: SettingsSpec
    parts: Parts
    roots: Sequence[Path] = ()
    _plans: dict[Run, RunPlan] = field(default_factory=dict, repr=False)
    _methods: dict[Cell, tuple[MethodSpec, Layout]] = field(default_factory=dict, repr=False)

    @cached_property
    def runs(self) -> list[Run]:
        """Every run of the grid, in the order of the file, each once."""
        runs: dict[Run, None] = {}
        for block in self.settings.grid:
            for values in product(*(getattr(block, f"{axis}s") for axis in AXES)):
                runs[Run(*values)] = None
        return list(runs)

    def seeds_of_a_job(self) -> list[list[Run]]:
        """The runs of the grid that train an adapter, as far as a job trains several: those that
        differ in the seed, `seeds_per_job` at a time.
        """
        size, cells = self.settings.seeds_per_job, defaultdict(list)
        if size == 1:
            return []
        for run in self.runs:
            if not self.plan(run).checkpoint:
                cells[replace(run, seed=0)].append(run)
        jobs = [runs[i : i + size] for runs in cells.values() for i in range(0, len(runs), size)]
        return [runs for runs in jobs if len(runs) > 1]

    def plan(self, run: Run) -> RunPlan:
        """The plan of a run. Raises ConfigError if the run is not possible."""
        if run not in self._plans:
            self._plans[run] = self._planned(run)
        return self._plans[run]

    def manifest_settings(self, dataset: str, split: str) -> dict[str, Any]:
        """What decides the rows of a manifest, by its job's fields."""
        rows = self.parts.dataset(dataset).rows().given()
        rows["templates"] = self._templates(dataset).given()
        return {
            "dataset": rows,
            "split": split,
            "max_rows": getattr(self.settings.data.max_rows, split),
        }

    def manifest_how(self, dataset: str, split: str) -> dict[str, Any]:
        """The rest that the job of a manifest takes."""
        return {
            "data": self.parts.directory("dataset", dataset),
            "files": paths.FILES.format(dataset=dataset, split=split),
            "max_reject_fraction": self.max_reject_fraction(dataset),
        }

    @property
    def has_checkpoints(self) -> bool:
        """Whether some runs may be tested with an adapter from elsewhere."""
        named = [self.settings.checkpoint, *(rule.checkpoint for rule in self.settings.overrides)]
        return any(folder is not None for folder in named)

    def published(self, table: str) -> list[str]:
        """The scores that stand beside those of a table.

        The path is relative: in another clone it is the same.
        """
        name = self.table(table).published
        found = None if name is None else find(name, self.roots)
        return [] if found is None else [os.path.relpath(found)]

    def table(self, name: str) -> TableSpec:
        return next(table for table in self.settings.tables if table.name == name)

    def table_runs(self, table: TableSpec) -> list[Run]:
        """The runs that the filters of a table let through."""
        filters = {axis: getattr(table, f"{axis}s") for axis in FILTERS}
        return [
            run
            for run in self.runs
            if all(not names or getattr(run, axis) in names for axis, names in filters.items())
        ]

    def report_part(
        self, table: TableSpec, scores: Sequence[str], missing: Sequence[str] = ()
    ) -> ReportPart:
        """A table of the report, of the runs with these scores; others are `missing`."""
        published = next(iter(self.published(table.name)), None)
        told = {"scores": list(scores), "missing": list(missing)}
        return ReportPart(table=table, published=published, **told)

    def report_media(self) -> dict[str, dict[str, str]]:
        """Where the files of each dataset lie, and what they are, as the report shows them."""
        return {
            name: {
                "folder": self.parts.media_directory(name),
                "modality": self.parts.dataset(name).modality,
            }
            for name in dict.fromkeys(run.dataset for run in self.runs)
        }

    def max_reject_fraction(self, dataset: str) -> float:
        """The tolerated fraction of bad samples and files: the dataset's own, or that of `data`."""
        own = self.parts.dataset(dataset).max_reject_fraction
        return self.settings.data.max_reject_fraction if own is None else own

    def _planned(self, run: Run) -> RunPlan:
        parts, chosen = self.parts, self._overriding(run)
        overrides = [self.settings.overrides[i] for i in chosen]
        method, shape = self._method(run, chosen)
        return RunPlan(
            run=run,
            dataset=parts.dataset(run.dataset),
            backbone=parts.backbone(run.backbone),
            llm=parts.llm(run.llm),
            method=method,
            label=parts.method(run.method).label,
            layout=shape,
            prompt=self.settings.prompt,
            templates=self._templates(run.dataset),
            train=self._train(run, overrides),
            tune=self.settings.tune,
            cache=self.settings.cache,
            checkpoint=self._setting("checkpoint", overrides),
            online=self._setting("features", overrides) == "online",
            media=parts.media_directory(run.dataset),
            backbone_directory=parts.directory("backbone", run.backbone),
            llm_directory=parts.directory("llm", run.llm),
            max_reject_fraction=self.max_reject_fraction(run.dataset),
        )

    def _templates(self, dataset: str) -> Templates:
        """The templates of a dataset, with the selection of the settings."""
        own = self.parts.dataset(dataset).templates
        return own.selecting(self.settings.data.template)

    def _method(self, run: Run, overriding: Sequence[int]) -> tuple[MethodSpec, Layout]:
        """A run's method, overrides included, and its layout, worked out once for all seeds."""
        cell = (run.method, run.backbone, run.llm, tuple(overriding))
        if cell not in self._methods:
            content = self.parts.method(run.method).given()
            for i in overriding:
                content = deep_merge(content, self.settings.overrides[i].method)
            for key in ("label", "train"):
                content.pop(key, None)
            where = f"{run.path}, method with its overrides"
            method = validated(MethodSpec, content, where)
            backbone, llm = self.parts.backbone(run.backbone), self.parts.llm(run.llm)
            try:
                fitted = layout(method, backbone.shape, llm.shape)
            except (AdapterError, ConnectorError) as error:
                raise ConfigError(
                    f"method {run.method!r} does not fit {run.backbone} and {run.llm}: {error}"
                ) from error
            self._methods[cell] = method, fitted
        return self._methods[cell]

    def _train(self, run: Run, overrides: Sequence[OverrideSpec]) -> TrainSpec:
        """The training settings; overrides win over the method, the dataset and the settings."""
        said = (
            self.settings.train,
            self.parts.dataset(run.dataset).train,
            self.parts.method(run.method).train,
            *(rule.train for rule in overrides),
        )
        merged = reduce(lambda general, special: special.over(general), said, TRAIN_DEFAULTS)
        if len(merged.given().keys() & LENGTH) != 1:
            raise ConfigError(f"{run.path}: train needs either `steps` or `epochs`")
        return merged

    def _setting(self, key: str, overrides: Sequence[OverrideSpec]) -> Any:
        """The value of the last override that has it, or else of the settings."""
        said = [value for rule in overrides if (value := getattr(rule, key)) is not None]
        return said[-1] if said else getattr(self.settings, key)

    def _overriding(self, run: Run) -> list[int]:
        """The indices of the overrides that are for a run."""
        values = asdict(run)
        return [
            i
            for i, names in enumerate(self._where)
            if all(values[axis] in chosen for axis, chosen in names.items())
        ]

    @cached_property
    def _where(self) -> list[dict[str, list[Any]]]:
        """For each override the values of the axes that it is for."""
        return [
            {axis.removesuffix("s"): names for axis, names in rule.where if names is not None}
            for rule in self.settings.overrides
        ]


def deep_merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `change`, mappings merged key by key, as Snakemake merges files."""
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = deep_merge(merged[key], value) if both else value
    return merged
