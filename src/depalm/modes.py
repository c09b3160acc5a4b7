"""Frozen models in training mode: with the dropout and drop path of their own training."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_training_mode(modules: Sequence[nn.Module]) -> Iterator[None]:
    """`modules` in training mode, and afterwards in evaluation mode."""
    for module in modules:
        module.train()
    try:
        yield
    finally:
        for module in modules:
            module.eval()


def drop_paths(model: nn.Module) -> list[nn.Module]:
    """The modules of `model` that leave out whole branches at random in training (each library has
    a class of its own).
    """
    return [m for m in model.modules() if type(m).__name__.endswith("DropPath")]
