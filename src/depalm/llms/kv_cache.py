"""A KV cache that grows in place. The library's own copies every key and value for each new token.

Beams need no reordering: what they generate stands in one row of their sample, behind the prompt
that they share, and a mask says which of it belongs to whom (`depalm.llms.places.branches`).
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    DynamicLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionLayer,
)

SPARE = 96  # tokens that a buffer is made larger than needed


class _Buffer:
    """Keys, or values, of one layer: [B, heads, S, D / heads], of which `length` tokens are there
    and the others are room for new ones.
    """

    def __init__(self) -> None:
        self.data: Tensor | None = None
        self.length = 0

    def append(self, new: Tensor) -> Tensor:
        """New states [B, heads, S', D / heads] -> all states [B, heads, S, D / heads]."""
        batch, heads, count, width = new.shape
        end = self.length + count
        if self.data is None or end > self.data.shape[2]:
            larger = new.new_empty(batch, heads, end + SPARE, width)
            if self.data is not None:
                larger[:, :, : self.length] = self.data[:, :, : self.length]
            self.data = larger
        self.data[:, :, self.length : end] = new
        self.length = end
        return self.data[:, :, :end]

    def select(self, rows: Tensor) -> None:
        if self.data is not None:
            self.data = self.data[:, :, : self.length].index_select(0, rows)


class _Layer(LinearAttentionAndFullAttentionLayer):  # type: ignore[misc]  # no types there
    """The cache of one decoder layer: keys and values, or a state where it is recurrent."""

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
    """Keys and values of all layers, or their states."""

    layers: list[_Layer]

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=_Layer)

    def select(self, rows: Tensor) -> None:
        """Make the batch that of `rows` [B'], each one of those that are there."""
        for layer in self.layers:
            for buffer in layer.buffers:
                buffer.select(rows)
            LinearAttentionLayer.reorder_cache(layer, rows)

    def get_conv_state(self, layer_idx: int, *args: Any, **kwargs: Any) -> Tensor | None:
        # the first that a recurrent layer asks for; the library adds layers for keys alone
        self.layers += [_Layer() for _ in range(len(self.layers), layer_idx + 1)]
        found: Tensor | None = super().get_conv_state(layer_idx, *args, **kwargs)
        return found


class FixedCache(Cache):  # type: ignore[misc]
    """Keys and values of all layers, with places for `spare` tokens behind those of `prompt`: the
    new ones of a call stand at `slots` [S'] of them. All places are given out, filled or not.
    """

    layers: list["_FixedLayer"]

    def __init__(self, prompt: GrowingCache, spare: int, slots: Tensor):
        super().__init__(layers=[_FixedLayer(layer, spare, self) for layer in prompt.layers])
        self.slots = slots

    def refill(self, prompt: GrowingCache) -> None:
        """Put keys and values of other prompts, as long as those before, in their place."""
        for layer, other in zip(self.layers, prompt.layers, strict=True):
            layer.refill(other)


class _FixedLayer(DynamicLayer):  # type: ignore[misc]
    """The cache of one decoder layer, in which every token has its place from the start."""

    def __init__(self, prompt: _Layer, spare: int, of: FixedCache):
        super().__init__()
        self.of, self.length = of, prompt.buffers[0].length
        self.data = []
        for buffer in prompt.buffers:
            assert buffer.data is not None
            there = buffer.data[:, :, : self.length]
            self.data.append(torch.nn.functional.pad(there, (0, 0, 0, spare)))

    def refill(self, prompt: _Layer) -> None:
        for data, buffer in zip(self.data, prompt.buffers, strict=True):
            assert buffer.data is not None
            data[:, :, : self.length] = buffer.data[:, :, : self.length]

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        *args: Any,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor]:
        places = self.of.slots + self.length
        for data, new in zip(self.data, (key_states, value_states), strict=True):
            data.index_copy_(2, places, new)
        self.keys, self.values = self.data
        return self.keys, self.values
