"""Errors of adapters that cannot be built or used."""

from depalm.errors import DepalmError


class AdapterError(DepalmError):
    """A method that does not fit its backbone or LLM, or a checkpoint made for others."""


class ConnectorError(DepalmError):
    """A connector whose parts do not fit together; says which and why."""
