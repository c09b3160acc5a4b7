"""YAML files, read without surprises and checked against the specs."""

import copy
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from depalm.adapters.registry import INJECTORS, RESAMPLERS
from depalm.backbones.registry import LOADERS
from depalm.datasets.readers import READERS
from depalm.errors import DepalmError
from depalm.evaluation.metrics import METRICS
from depalm.llms.registry import FAMILIES
from depalm.sources.registry import CONVERTERS, FETCHERS
from depalm.specs import SPECS, Names, Spec, faults

Kind = TypeVar("Kind", bound=Spec)
# what is valid in YAML is what these hold when it is read
REGISTRIES: Names = {
    "reader": READERS,
    "loader": LOADERS,
    "resampler": RESAMPLERS,
    "injector": INJECTORS,
    "metric": METRICS,
    "family": FAMILIES,
    "converter": CONVERTERS,
    "scheme": FETCHERS,
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
    """The spec of `content`, of its `kind`: see `validated`."""
    return validated(SPECS[kind], content, where)


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON schema of a `kind` of file, with the names that the registries hold now."""
    schema: dict[str, Any] = _with_names(SPECS[kind].model_json_schema())
    return schema


def _with_names(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_with_names(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    rest = {key: _with_names(value) for key, value in schema.items()}
    kind = rest.pop("registry", None)
    if isinstance(kind, str):
        besides = rest.pop("besides")
        rest["enum"] = [name for name in REGISTRIES[kind] if name not in besides]
    return rest


def validated(spec: type[Kind], content: Any, where: str, texts: bool = False) -> Kind:
    """`content` as a `spec`. Raises ConfigError with all that is wrong with it.

    With `texts`, a text is read as YAML where the spec wants something else: Snakemake hands over
    what is nested in its option --config as texts.
    """
    try:
        return spec.model_validate(content, context=REGISTRIES)
    except ValidationError as error:
        read = _texts_read(content, error) if texts else content
        if read != content:
            return validated(spec, read, where)
        lines = [
            f"{where}, {place}: {said}" if place else f"{where}: {said}"
            for place, said in faults(content, error).items()
        ]
        raise ConfigError("\n".join(lines)) from None


def _texts_read(content: Any, error: ValidationError) -> Any:
    """`content` with the texts read as YAML that an error says are of a wrong type."""
    read = copy.deepcopy(content)
    for line in error.errors(include_url=False):
        if not isinstance(line["input"], str):
            continue
        place, holder, key = read, None, None
        for item in line["loc"]:
            inside = isinstance(place, Mapping) and item in place
            if inside or (isinstance(item, int) and isinstance(place, list)):
                holder, key, place = place, item, place[item]
        if holder is not None and place == line["input"]:
            try:
                holder[key] = yaml.load(place, Loader=_Loader)
            except yaml.YAMLError:
                continue
    return read
