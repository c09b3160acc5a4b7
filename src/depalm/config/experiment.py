"""The run configuration and the part files it names, strictly checked before any job is planned."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import torch

from depalm.adapters.adapter import Adapter
from depalm.adapters.qp_mapper import ConnectorError
from depalm.adapters.selection import AdapterError
from depalm.config.run import AXES, Run
from depalm.config.schema import ConfigError, check_schema, load_yaml
from depalm.features.cached import training_views
from depalm.specs import TrainSpec, nearest
from depalm.specs.base import in_order

# what a training needs to be told
TRAIN_DEFAULTS = {"epochs": 8, **TrainSpec().model_dump(include={"batch_size", "lr"})}


@dataclass
class Config:
    """A checked configuration: `settings` as in its file, and the parts by kind and name.

    A part is the file {kind}s/{name}.yaml in the first of `folders` that has it.
    """

    settings: Mapping[str, Any]
    folders: Sequence[Path]
    parts: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    adapters: dict[Run, Adapter] = field(default_factory=dict, repr=False)

    def part(self, kind: str, name: str) -> dict[str, Any]:
        """The content of {kind}s/{name}.yaml, checked. Raises ConfigError."""
        known = self.parts.setdefault(kind, {})
        if name not in known:
            files = [folder / f"{kind}s" / f"{name}.yaml" for folder in self.folders]
            path = next((path for path in files if path.is_file()), None)
            if path is None:
                there = {other.stem for path in files for other in path.parent.glob("*.yaml")}
                wanted = ", ".join(map(str, files))
                raise ConfigError(f"unknown {kind} {name!r}{nearest(name, there)} (no {wanted})")
            content = load_yaml(path)
            check_schema(content, kind, str(path))
            known[name] = in_order(content)
        return known[name]

    def runs(self) -> list[Run]:
        """Every run of the grid, in the order of the file, each once."""
        runs: dict[Run, None] = {}
        for block in self.settings["grid"]:
            axes = ("datasets", "fractions", "backbones", "llms", "methods", "seeds")
            for values in product(*(block[axis] for axis in axes)):
                runs[Run(*values)] = None
        return list(runs)

    def train_settings(self, run: Run) -> dict[str, Any]:
        """Of the configuration, the dataset, the method and the overrides: what says it last."""
        merged: dict[str, Any] = {}
        sources = [
            TRAIN_DEFAULTS,
            self.settings["train"],
            self.part("dataset", run.dataset).get("train", {}),
            self.part("method", run.method).get("train", {}),
            *(rule.get("train", {}) for rule in self._overrides(run)),
        ]
        for source in sources:
            if source.keys() & {"steps", "epochs"}:  # either replaces the other
                merged.pop("steps", None)
                merged.pop("epochs", None)
            merged |= source
        if len(merged.keys() & {"steps", "epochs"}) != 1:
            raise ConfigError(f"{run.path}: train needs either `steps` or `epochs`")
        return in_order(merged)

    def method(self, run: Run) -> dict[str, Any]:
        """What a run's method is, overrides included, but not its label or training settings."""
        method = self.part("method", run.method)
        for rule in self._overrides(run):
            method = _deep_merge(method, rule.get("method", {}))
        return in_order({k: value for k, value in method.items() if k not in ("train", "label")})

    def checkpoint(self, run: Run) -> str | None:
        """The folder of the adapter that a run only tests; None if it trains its own."""
        chosen: str | None = self._setting(run, "checkpoint")
        return chosen

    def online(self, run: Run) -> bool:
        """Whether a run has its backbone in the loop, rather than a cache of its tokens."""
        return bool(self._setting(run, "features") == "online")

    def _setting(self, run: Run, key: str) -> Any:
        """What the last override says that says it, or else the file; None if neither does."""
        values = [of[key] for of in (self.settings, *self._overrides(run)) if key in of]
        return values[-1] if values else None

    def _overrides(self, run: Run) -> list[Mapping[str, Any]]:
        values = asdict(run)
        return [
            rule
            for rule in self.settings["overrides"]
            if all(values[axis.removesuffix("s")] in names for axis, names in rule["where"].items())
        ]

    def adapter(self, run: Run) -> Adapter:
        """The adapter of a run, on the meta device. Raises ConfigError if it cannot be."""
        if run not in self.adapters:
            self.adapters[run] = self._build_adapter(run)
        return self.adapters[run]

    def _build_adapter(self, run: Run) -> Adapter:
        backbone, llm = self.part("backbone", run.backbone), self.part("llm", run.llm)
        try:
            with torch.device("meta"):
                return Adapter(self.method(run), backbone["shape"], llm["shape"])
        except (AdapterError, ConnectorError) as error:
            raise ConfigError(
                f"method {run.method!r} does not fit {run.backbone} and {run.llm}: {error}"
            ) from error

    def layers(self, dataset: str, backbone: str) -> list[int]:
        """The layers of which the configured methods read all tokens from the cache, on this
        dataset.
        """
        return self._cached_layers.get((dataset, backbone), [])

    @cached_property
    def _cached_layers(self) -> dict[tuple[str, str], list[int]]:
        found: dict[tuple[str, str], set[int]] = {}
        for run in self.runs():
            adapter = self.adapter(run)
            if not (self.online(run) or adapter.cls_only):
                found.setdefault((run.dataset, run.backbone), set()).update(adapter.source_layers)
        return {key: sorted(layers) for key, layers in found.items()}

    def table_runs(self, table: Mapping[str, Any]) -> list[Run]:
        """The runs that the filters of a table let through."""
        filters = {axis: table[f"{axis}s"] for axis in AXES if table.get(f"{axis}s")}
        return [
            run
            for run in self.runs()
            if all(getattr(run, axis) in names for axis, names in filters.items())
        ]

    @property
    def training_views(self) -> list[int]:
        return training_views(self.settings["cache"]["views"])

    def model_directory(self, kind: str, name: str) -> str:
        """Where the weights of a backbone or LLM are read: converted, as fetched, or the user's
        own.
        """
        part = self.part(kind, name)
        if "path" in part:
            return str(part["path"])
        return f"resources/{'models' if 'convert' in part else 'downloads'}/{kind}s/{name}"

    def data_directory(self, dataset: str) -> str:
        """Where a dataset is read: the user's own directory, converted, or as fetched."""
        part = self.part("dataset", dataset)
        if "root" in part:
            return str(part["root"])
        return f"resources/{'models' if 'convert' in part else 'downloads'}/datasets/{dataset}"

    def media_directory(self, dataset: str) -> str:
        """Where the media of a dataset lie: in its `media_root`, or else with the annotations."""
        part = self.part("dataset", dataset)
        return (
            str(Path(part["media_root"])) if "media_root" in part else self.data_directory(dataset)
        )

    def max_reject_fraction(self, dataset: str) -> float:
        """What is tolerated of bad samples and files of a dataset: its own, or that of `data`."""
        default: float = self.settings["data"]["max_reject_fraction"]
        return self.part("dataset", dataset).get("max_reject_fraction", default)


def _deep_merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _deep_merge(merged[key], value) if both else value
    return merged
