"""The options of a spec, told to readers: tables in Markdown, generated from the models alone."""

import json
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from depalm.specs.base import Spec

SIMPLE = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null"}


def options(spec: type[Spec], title: str, level: int = 2) -> str:
    """A section with a table of the keys of `spec`, and one for each spec that is nested in it."""
    seen: dict[type[Spec], str] = {}
    return "\n".join(_sections(spec, title, level, seen))


def _sections(
    spec: type[Spec], title: str, level: int, seen: dict[type[Spec], str]
) -> Iterator[str]:
    seen[spec] = title
    text = (spec.__doc__ or "").strip().splitlines()[0]
    yield f"{'#' * level} {title}\n\n{text}\n"
    yield "| Key | Value | Default | What it is |\n| :-- | :-- | :-- | :-- |"
    nested: dict[type[Spec], str] = {}
    for name, field in spec.model_fields.items():
        key = field.alias or name
        for member in _specs(field.annotation):
            nested.setdefault(member, key)
        yield f"| `{key}` | {_kind(field)} | {_default(field)} | {_cell(field.description or '')} |"
    yield ""
    parts = [(member, key) for member, key in nested.items() if member not in seen]
    for member, key in parts:
        if member not in seen:
            kind = member.model_fields.get("type") or member.model_fields.get("at")
            names = "" if kind is None else f": {_kind(kind)}".replace("`", "")
            yield from _sections(member, f"{title.split(':')[0]}, {key}{names}", level, seen)


def _specs(annotation: Any) -> Iterator[type[Spec]]:
    """The specs in an annotation, at any depth."""
    if isinstance(annotation, type) and not get_args(annotation):
        if issubclass(annotation, Spec):
            yield annotation
        return
    for part in get_args(annotation):
        yield from _specs(part)


def _kind(field: FieldInfo) -> str:
    kinds = dict.fromkeys(_kinds(field.annotation))
    limits = [text for item in field.metadata if (text := _limit(item))]
    return _cell(" or ".join(kinds) + "".join(f", {text}" for text in dict.fromkeys(limits)))


def _kinds(annotation: Any) -> Iterator[str]:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        limits = "".join(f", {text}" for item in metadata if (text := _limit(item)))
        for kind in _kinds(inner):
            yield f"{kind}{limits}"
    elif origin is Literal:
        for value in get_args(annotation):
            yield f"`{value}`"
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _kinds(part)
    elif origin is list:
        yield f"list of {' or '.join(dict.fromkeys(_kinds(get_args(annotation)[0])))}"
    elif annotation in SIMPLE:
        yield SIMPLE[annotation]
    else:
        yield "mapping"


def _limit(item: Any) -> str:
    """A constraint in words; empty for what is none, or goes without saying."""
    for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
        if (value := getattr(item, name, None)) is not None:
            return f"{sign} {value}"
    pattern = getattr(item, "pattern", None)
    if pattern is None:
        inner = getattr(item, "metadata", ())
        return ", ".join(text for part in inner if (text := _limit(part)))
    return f"like `{pattern}`"


def _default(field: FieldInfo) -> str:
    value = field.get_default()
    if value is PydanticUndefined:
        return "needed"
    if isinstance(value, Spec):
        return ""
    if isinstance(value, list):
        value = [
            item.model_dump(exclude_none=True) if isinstance(item, Spec) else item for item in value
        ]
    return f"`{_cell(json.dumps(value, ensure_ascii=False))}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
