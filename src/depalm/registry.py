"""Registries: the only lists of the names that YAML may use for a piece of code."""

from collections.abc import Iterator, Mapping, MutableMapping
from pkgutil import resolve_name
from typing import Any, TypeVar, cast

Value = TypeVar("Value")


class Registry(MutableMapping[str, Value]):
    """Functions or classes by name, in the order in which they were added.

    An entry may be given as "module:name", as Python's entry points are. It is imported when it is
    first looked up, so that a list of names costs no import of what stands behind them.
    """

    def __init__(self, entries: Mapping[str, Value | str]):
        self._entries: dict[str, Any] = dict(entries)

    def __getitem__(self, name: str) -> Value:
        value = self._entries[name]
        if isinstance(value, str):
            value = self._entries[name] = resolve_name(value)
        return cast(Value, value)

    def __setitem__(self, name: str, value: Value | str) -> None:
        self._entries[name] = value

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
