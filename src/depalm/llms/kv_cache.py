"""A KV cache that grows in place. The library's own copies every key and value for each new token.

Beams need no reordering: what they generate stands in one row of their sample, behind the prompt
that they share, and a mask says which of it belongs to whom (`depalm.llms.places.branches`).
"""

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

SPARE = 96  # tokens that a buffer is made larger than needed


class _Buffer:
    """Keys, or values, of one layer: [S, B, heads, D / heads], of which `length` tokens are there.

    The tokens stand outermost, so that new ones are appended without touching the others.
    """

    def __init__(self) -> None:
        self.data: Tensor | None = None
        self.length = 0

    def append(self, new: Tensor) -> Tensor:
        """New states [B, heads, S', D / heads] -> all states [B, heads, S, D / heads]."""
        rows = new.permute(2, 0, 1, 3)
        end = self.length + len(rows)
        if self.data is None or end > len(self.data):
            larger = rows.new_empty(end + SPARE, *rows.shape[1:])
            if self.data is not None:
                larger[: self.length] = self.data[: self.length]
            self.data = larger
        self.data[self.length : end] = rows
        self.length = end
        return self.data[:end].permute(1, 2, 0, 3)

    def select(self, rows: Tensor) -> None:
        if self.data is not None:
            self.data = self.data[: self.length].index_select(1, rows)


class _Layer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """The cache of one decoder layer."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.buffers = _Buffer(), _Buffer()

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *args: Any,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys, self.values = (
            buffer.append(new)
            for buffer, new in zip(self.buffers, (key_states, value_states), strict=True)
        )
        return self.keys, self.values


class GrowingCache(Cache):  # type: ignore[misc]
    """Keys and values of all layers."""

    layers: list[_Layer]

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=_Layer)

    def select(self, rows: Tensor) -> None:
        """Make the batch that of `rows` [B'], each one of those that are there."""
        for layer in self.layers:
            for buffer in layer.buffers:
                buffer.select(rows)
