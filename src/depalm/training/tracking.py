"""Learning curves in an experiment tracker that the user has: trackio or wandb."""

from collections.abc import Mapping
from hashlib import sha256
from importlib import import_module
from typing import Any, Protocol

PROJECT = "depalm"


class Tracker(Protocol):
    """A run of a tracker, as both libraries have it."""

    def log(self, data: dict[str, float], step: int) -> Any: ...

    def finish(self) -> Any: ...


def start_tracking(library: str, run: str, config: Mapping[str, Any]) -> Tracker:
    """The run that is called `run`, with its settings; one that was killed goes on.

    Where it is kept is the library's own matter (its environment variables).
    """
    told = {"project": PROJECT, "name": run.replace("/", " "), "config": dict(config)}
    if library == "wandb":  # trackio goes on by name
        told["id"] = sha256(run.encode()).hexdigest()[:16]
    tracker: Tracker = import_module(library).init(**told, resume="allow")
    return tracker
