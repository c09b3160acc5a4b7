"""A KV cache for beam search: it grows in place, and beams share what stands before them.

The library's own copies every key and value for each new token, and again for each reordering of
the beams.
"""

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

SPARE = 32  # tokens that a buffer is made larger than needed


class _Buffer:
    """Keys, or values, of one layer: [S, B, heads, D / heads], of which `length` tokens are there.

    The tokens stand outermost, so that new ones are appended, and those behind `shared` reordered,
    without touching the others.
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
        return self.states

    @property
    def states(self) -> Tensor:
        assert self.data is not None
        return self.data[: self.length].permute(1, 2, 0, 3)

    def split(self, beams: int) -> None:
        assert self.data is not None
        self.data = self.data.repeat_interleave(beams, dim=1)

    def reorder(self, rows: Tensor, shared: int) -> None:
        assert self.data is not None
        own = self.data[shared : self.length]
        own.copy_(own.index_select(1, rows))


class _Layer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """The cache of one decoder layer; `shared` tokens are the same for all beams of a sample."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.buffers = _Buffer(), _Buffer()
        self.shared = 0

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


class BeamCache(Cache):  # type: ignore[misc]
    """Keys and values of all layers, for a batch whose rows become beams."""

    layers: list[_Layer]

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=_Layer)

    def split(self, beams: int) -> None:
        """Make each row `beams` rows, which share all that stands in the cache until now."""
        for layer in self.layers:
            for buffer in layer.buffers:
                buffer.split(beams)
            layer.shared = layer.buffers[0].length

    def reorder(self, rows: Tensor) -> None:
        """Put `rows` [B] into that order, each a beam of the same sample as the row it replaces."""
        for layer in self.layers:
            for buffer in layer.buffers:
                buffer.reorder(rows, layer.shared)
