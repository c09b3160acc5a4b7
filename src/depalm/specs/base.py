"""What all specs share: strictness, names that a registry knows, and errors that help."""

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

Names = Mapping[str, Iterable[str]]  # the names that each registry holds: the context of validation


def _as_written(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """A number of float's kind; 10 stays 10, and is recorded so, not as 10.0."""
    number = check(value)
    return value if isinstance(value, int) else number


Positive = Annotated[int, Ge(1)]
Count = Positive | Literal["auto"]
Compute = Literal["float32", "tf32", "bfloat16", "float16"]
Natural = Annotated[int, Ge(0)]
Number = Annotated[float, WrapValidator(_as_written), PlainSerializer(lambda number: number)]
Fraction = Annotated[Number, Ge(0), Le(1)]  # both ends included
Probability = Annotated[Number, Ge(0), Lt(1)]
Rate = Annotated[Number, Gt(0)]
Version = Annotated[int, Field(description="raise it to rebuild all that depends on this file")]
KEY = "@"
OURS = "depalm"  # the type of errors that are in our words already
LENGTHS = {"too_short": "{min_length} or more items", "too_long": "at most {max_length} items"}
QUOTED = re.compile(r"'([^']*)'")
NAME_BYTES = 255  # of a file name, for names become folders


def _is_file_name(name: str) -> str:
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise fault("a name is part of a path: no slash, and not empty")
    if len(name.encode()) > NAME_BYTES:
        raise fault(f"a name has at most {NAME_BYTES} bytes")
    return name


def _distinct(values: list[Any]) -> list[Any]:
    seen = [value for i, value in enumerate(values) if value in values[:i]]
    if seen:
        raise fault(f"{seen[0]!r} stands here twice")
    return values


PartName = Annotated[str, AfterValidator(_is_file_name)]
PartNames = Annotated[list[PartName], MinLen(1), AfterValidator(_distinct)]
Distinct = AfterValidator(_distinct)


@dataclass(frozen=True)
class Registered:
    """A name that the registry `kind` holds. Without a context any name passes.

    In a JSON schema stands {"registry": kind}; `depalm.config.schema.json_schema` puts the names in
    its place, but for those of `besides`, which have a spec of their own.
    """

    kind: str
    besides: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.with_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        registry = {"registry": self.kind, "besides": list(self.besides)}
        return {**handler(schema), **registry}

    def _check(self, name: str, info: ValidationInfo) -> str:
        known = (info.context or {}).get(self.kind)
        if known is not None and name not in known:
            raise fault(f"unknown value {name!r}{nearest(name, known)}")
        return name


class Spec(BaseModel):
    """A mapping in YAML: no key that it does not know, no value of another type, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def given(self) -> dict[str, Any]:
        """The keys that were given, as JSON, in alphabetical order.

        A key that is left out stays so: a default that is added to a spec later changes nothing
        that is recorded or compared.
        """
        content: dict[str, Any] = in_order(
            self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        )
        return content

    def filled(self) -> dict[str, Any]:
        """All keys, with the defaults of those not given, as JSON in alphabetical order."""
        content: dict[str, Any] = in_order(self.model_dump(mode="json", by_alias=True))
        return content

    @model_validator(mode="wrap")
    @classmethod
    def _name_unknown_keys(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            details = [cls._detail(line) for line in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(cls.__name__, details) from None

    @classmethod
    def _detail(cls, line: Any) -> InitErrorDetails:
        """An error of pydantic's in our words."""
        place = line["loc"]
        if line["type"] == "extra_forbidden" and len(place) == 1:
            known = [field.alias or name for name, field in cls.model_fields.items()]
            text, place = f"unknown key {place[0]!r}{nearest(place[0], known)}", ()
        elif line["type"] == "missing":
            text, place = f"{place[-1]!r} is missing", place[:-1]
        else:
            text = _explained(line)
            place = (*place, *key_of(line))
        return InitErrorDetails(type=fault(text), loc=place, input=line["input"])


def in_order(value: Any) -> Any:
    """The same with the keys of all mappings in order, for Snakemake compares parameters as text:
    without this, to move a line in a file would rerun what depends on it.
    """
    if isinstance(value, Mapping):
        return {key: in_order(value[key]) for key in sorted(value)}
    return [in_order(item) for item in value] if isinstance(value, list) else value


def _explained(line: Any) -> str:
    value, context = line["input"], line.get("ctx", {})
    if line["type"] == OURS:
        return str(line["msg"])
    if line["type"] == "literal_error":
        return f"unknown value {value!r}{nearest(value, QUOTED.findall(context['expected']))}"
    if line["type"] == "union_tag_invalid":
        tag = context["tag"]
        return f"unknown value {tag!r}{nearest(tag, QUOTED.findall(context['expected_tags']))}"
    if line["type"] == "union_tag_not_found":
        return f"{context['discriminator']} is missing"
    if line["type"] == "model_type":
        return f"{value!r:.100} must be a mapping of keys to values"
    if line["type"] == "string_pattern_mismatch":
        return f"{value!r:.100} must match {context['pattern']}"
    if line["type"] in ("too_short", "too_long"):
        return f"{value!r:.100} must have {LENGTHS[line['type']].format(**context)}"
    text = str(line["msg"]).replace("Input should", "must", 1)
    return f"{value!r:.100} {text}" if text.startswith("must") else f"{text}, not {value!r:.100}"


def nearest(name: Any, known: Iterable[Any]) -> str:
    """How to go on from an unknown name: the nearest known one, or all of them."""
    names = [str(value) for value in known]
    close = difflib.get_close_matches(str(name), names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are: {', '.join(sorted(names))}"


def key_of(line: Any) -> tuple[str, ...]:
    """The key that an error of `fault` is about, as a part of its location: KEY in front of
    it tells it from the names that pydantic has for a union's members.
    """
    at = line.get("ctx", {}).get("at")
    return () if at is None else (f"{KEY}{at}",)


def fault(text: Any, at: str | None = None) -> PydanticCustomError:
    """An error of validation that says `text`, of the key `at` of a mapping."""
    kind: Any = OURS
    return PydanticCustomError(kind, text, None if at is None else {"at": at})


def faults(content: Any, error: ValidationError) -> dict[str, str]:
    """The errors in `content`, by the key (such as cache.shards); "" for all of it."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for line in error.errors(include_url=False):
        found[_place(content, (*line["loc"], *key_of(line)))].append(_explained(line))
    return {place: "; ".join(dict.fromkeys(texts)) for place, texts in found.items()}


def _place(content: Any, location: tuple[int | str, ...]) -> str:
    """The place of an error in words, without the names of a union's members."""
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
    return ".".join(place)
