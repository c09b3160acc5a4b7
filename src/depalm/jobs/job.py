"""A job: all that a rule gives to its script, as one value that goes through JSON unchanged."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Self,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import TypeAdapter, ValidationError

from depalm.errors import DepalmError
from depalm.files import parse_json
from depalm.specs import Spec, faults, nearest

Kind = TypeVar("Kind")
TOLD = {
    Any: "anything",
    NoneType: "null",
    bool: "true or false",
    float: "a number",
    int: "a whole number",
    str: "a string",
}


class JobError(DepalmError):
    """A job, or settings in it, with a wrong key or value; the message names the file and key."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """The work of a command: its fields are JSON values or specs, and paths are relative to the
    working directory.

    `command` is its name on the command line. A subclass imports what takes torch only in
    `run`, so that a job can be read, written and explained at once.
    """

    command: ClassVar[str]

    def run(self) -> None:
        """Make the outputs from the inputs. Raises DepalmError."""
        raise NotImplementedError

    def to_json(self) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps(values, indent=2, default=lambda spec: spec.given()) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "job") -> Self:
        """The job that `to_json` wrote. Raises JobError; `where` is named in its message."""
        try:
            values = parse_json(text)
        except ValueError as error:
            raise JobError(f"{where} is not a job's JSON: {error}") from error
        return checked(cls, values, where)

    @classmethod
    def from_file(cls, path: Path | str) -> Self:
        """The job in a JSON file. Raises JobError."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise JobError(f"{path} cannot be read: {error}") from error
        return cls.from_json(text, str(path))

    @classmethod
    def from_snakemake(cls, snakemake: Any) -> Self:
        """The job that a rule describes: a field is the input, output, parameter or resource of its
        name, or the threads, or stands in the parameter `settings` or `how`, mappings of fields (on
        which Snakemake's reruns depend, and do not).

        If a rule gives several files of one name, its field is a list. Any other field takes the
        only file, or None if an input function gives none. Raises JobError.
        """
        given = {"threads": snakemake.threads}
        for values in (snakemake.resources, snakemake.params):
            given |= dict(values.items())
        given |= given.pop("settings", {}) | given.pop("how", {})
        for files in (snakemake.input, snakemake.output):
            given |= {name: _files(cls, name, value) for name, value in files.items()}
        known = {field.name for field in fields(cls)}
        text = json.dumps({name: value for name, value in given.items() if name in known})
        return cls.from_json(text, f"rule {snakemake.rule}")


def checked(kind: type[Kind], values: Any, where: str) -> Kind:
    """The dataclass `kind` with the fields of a JSON object.

    Raises JobError naming all keys that are unknown, missing or of a wrong type.
    """
    if not isinstance(values, Mapping):
        raise JobError(f"{where} must be an object of JSON, but is {values!r:.100}")
    hints = hints_of(kind)
    read = dict(values)
    problems = [f"unknown key {key!r}{nearest(key, hints)}" for key in values if key not in hints]
    for field in fields(kind):  # type: ignore[arg-type]
        hint = hints[field.name]
        if field.name not in values:
            if is_required(field):
                problems.append(f"the key {field.name!r} is missing")
        elif has_spec(hint):
            try:
                read[field.name] = TypeAdapter(hint).validate_python(values[field.name])
            except ValidationError as error:
                for place, said in faults(values[field.name], error).items():
                    problems.append(f"{'.'.join(filter(None, (field.name, place)))}: {said}")
        elif not _fits(values[field.name], hint):
            found = f"{values[field.name]!r:.100}"
            problems.append(f"{field.name} must be {told(hint)}, but is {found}")
    if problems:
        raise JobError(f"{where}: {'; '.join(problems)}")
    return kind(**read)


def hints_of(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields, by name."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind)}


def is_required(field: "Field[Any]") -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def has_spec(hint: Any) -> bool:
    """Whether a type is a spec, or made of some."""
    if isinstance(hint, type) and issubclass(hint, Spec):
        return True
    return any(has_spec(argument) for argument in get_args(hint))


def told(hint: Any) -> str:
    """A type in words, with the article."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return told(arguments[0])
    if isinstance(hint, type) and issubclass(hint, Spec):
        return "an object"
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(told(argument) for argument in arguments))
    if origin is list:
        return f"a list of {told(arguments[0]).partition(' ')[2]}s"
    if origin is dict:
        return "an object"
    return TOLD.get(hint, hint.__name__)


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(v, arguments[1]) for v in value.values())
    if isinstance(value, bool):
        return bool(hint is bool)
    return isinstance(value, int | float if hint is float else hint)


def _files(kind: type[Job], name: str, value: Any) -> Any:
    """The input or output `name` of a rule: a path, or a list of paths."""
    paths = [value] if isinstance(value, str) else list(value)
    if get_origin(hints_of(kind).get(name)) is list or len(paths) > 1:
        return paths
    return paths[0] if paths else None
