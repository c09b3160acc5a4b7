"""YAML files, checked against the strict schemas in workflow/schemas."""

import difflib
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from referencing import Registry, Resource

from depalm.errors import DepalmError

SCHEMAS = Path(__file__).parents[3] / "workflow" / "schemas"


class ConfigError(DepalmError):
    """A configuration that cannot be run: says where, what is wrong, and the nearest valid name."""


def load_yaml(path: Path) -> Any:
    """Read YAML; numbers such as 1e-3, which YAML 1.1 takes for text, are numbers here."""
    try:
        return yaml.load(path.read_text(), Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error


class _Loader(yaml.SafeLoader):
    pass


# what a `$ref` of one schema file names is another one beside it
SCHEMA_FILES: Registry[Any] = Registry(
    retrieve=lambda name: Resource.from_contents(load_yaml(SCHEMAS / name))  # type: ignore[call-arg]
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def check_schema(content: Any, schema: str, where: str) -> None:
    """Check `content` against workflow/schemas/{schema}.schema.yaml. Raises ConfigError."""
    error = jsonschema.exceptions.best_match(_validator(schema).iter_errors(content))
    if error is not None:
        place = ".".join(map(str, error.absolute_path))
        raise ConfigError(f"{where}{f', {place}' if place else ''}: {_explain(error)}")


@cache
def _validator(schema: str) -> jsonschema.Draft202012Validator:
    content = load_yaml(SCHEMAS / f"{schema}.schema.yaml")
    return jsonschema.Draft202012Validator(content, registry=SCHEMA_FILES)


def _explain(error: Any) -> str:
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        unknown = [key for key in error.instance if key not in known]
        return "; ".join(f"unknown key {key!r}{nearest(key, known)}" for key in unknown)
    if error.validator == "not" and not error.validator_value:
        return "this key is for parts of another kind"
    if error.validator == "enum":
        return f"unknown value {error.instance!r}{nearest(error.instance, error.validator_value)}"
    return error.message


def nearest(name: Any, known: Iterable[Any]) -> str:
    """How to go on from an unknown name: the nearest known one, or all of them."""
    names = [str(value) for value in known]
    close = difflib.get_close_matches(str(name), names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(sorted(names))}"
