"""YAML files, read without surprises and checked against the specs."""

import re
from collections import defaultdict
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from depalm.adapters.resamplers import RESAMPLERS
from depalm.backbones.registry import LOADERS
from depalm.datasets.readers import READERS
from depalm.errors import DepalmError
from depalm.evaluation.metrics import METRICS
from depalm.llms.base import FAMILIES
from depalm.sources.convert import CONVERTERS
from depalm.specs import BackboneSpec, DatasetSpec, LLMSpec, MethodSpec, Names, SettingsSpec, Spec
from depalm.specs.base import KEY, key_of

SPECS: dict[str, type[Spec]] = {
    "dataset": DatasetSpec,
    "backbone": BackboneSpec,
    "llm": LLMSpec,
    "method": MethodSpec,
    "config": SettingsSpec,
}
# what is valid in YAML is what these hold when it is read
REGISTRIES: Names = {
    "reader": READERS,
    "loader": LOADERS,
    "resampler": RESAMPLERS,
    "metric": METRICS,
    "family": FAMILIES,
    "converter": CONVERTERS,
}


class ConfigError(DepalmError):
    """A configuration that cannot be run: says where, what is wrong, and the nearest valid name."""


def load_yaml(path: Path) -> Any:
    """Read YAML; numbers such as 1e-3, which YAML 1.1 takes for text, are numbers here.

    Raises ConfigError if it is not UTF-8 or not YAML, or has a key twice.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 ({error}): save it in that encoding") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        first: dict[Any, int] = {}
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if key in first:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"the key {key!r} stands twice, in lines {first[key]} and {line}",
                    key_node.start_mark,
                )
            first[key] = line
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def check_schema(content: Any, kind: str, where: str) -> Spec:
    """The spec of `content`, of its `kind`. Raises ConfigError with all that is wrong with it."""
    try:
        return SPECS[kind].model_validate(content, context=REGISTRIES)
    except ValidationError as error:
        faults: defaultdict[str, list[str]] = defaultdict(list)
        for line in error.errors(include_url=False):
            faults[_place(content, (*line["loc"], *key_of(line)))].append(line["msg"])
        lines = [f"{where}{place}: {'; '.join(dict.fromkeys(f))}" for place, f in faults.items()]
        raise ConfigError("\n".join(lines)) from None


def _place(content: Any, location: tuple[int | str, ...]) -> str:
    """Where an error is, in words, without the names of a union's members."""
    place: list[str] = []
    for item in location:
        if isinstance(item, str) and item.startswith(KEY):
            place.append(item.removeprefix(KEY))
        elif isinstance(content, Mapping) and item in content:  # noqa: SIM114
            place.append(str(item))
            content = content[item]
        elif isinstance(item, int) and isinstance(content, list):
            place.append(str(item))
            content = content[item]
    return f", {'.'.join(place)}" if place else ""
