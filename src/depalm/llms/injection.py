"""Injection of an adapter's tokens into a frozen LLM, at any layer, with its own positions, mask
and KV cache.

The sequence at a layer is ``[K visual tokens] [P prompt tokens] [S text tokens]``. The visual
tokens stand in it only from their first target layer to their last one; at every further target
layer they are overwritten by that layer's own tokens (DePALM, section 3;
docs/methods.md#inner-injection). Attention is causal over whatever stands in the sequence, and
rotary positions count from 0 over it, so they shift where tokens are inserted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from depalm.errors import DepalmError
from depalm.llms.base import LLM
from depalm.llms.kv_cache import BeamCache


class InjectionError(DepalmError):
    """Tokens that cannot stand where they are asked to."""


@dataclass(frozen=True)
class Injection:
    """The tokens and prompts that an adapter adds to the LLM for one batch.

    tokens: LLM layer -> [B, K, D], the same K for every layer.
    last: the layer after which the tokens are removed; None keeps them to the end.
    prompt: [P, D] learned prompt tokens, placed at the embedding before the text.
    layer_prompts: LLM layer -> [P, D], which overwrite the prompt's positions in front of that
    layer.
    cross: LLM layer -> keys and values [B, heads, T, D / heads]; in front of that layer, what
        `reader` (hidden [B, S, D], keys, values -> [B, S, D]) reads from them is added.
    """

    tokens: Mapping[int, Tensor] = field(default_factory=dict)
    last: int | None = None
    prompt: Tensor | None = None
    layer_prompts: Mapping[int, Tensor] = field(default_factory=dict)
    cross: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    reader: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None

    @property
    def count(self) -> int:
        """K, the number of visual tokens that stand before the sequence."""
        return next(iter(self.tokens.values())).shape[1] if self.tokens else 0

    def select(self, rows: Tensor) -> "Injection":
        """The injection for `rows` [B'] of the batch, in that order."""
        tokens = {layer: value[rows] for layer, value in self.tokens.items()}
        distinct = {id(pair): (pair[0][rows], pair[1][rows]) for pair in self.cross.values()}
        cross = {layer: distinct[id(pair)] for layer, pair in self.cross.items()}
        return replace(self, tokens=tokens, cross=cross)

    def span(self, layers: int) -> range:
        """The layers, of the LLM's `layers`, at which the visual tokens stand in the sequence.

        Raises InjectionError for targets that the LLM does not have or that disagree in K.
        """
        touched = {*self.layer_prompts, *self.cross}
        if touched and not (min(touched) >= 0 and max(touched) < layers):
            raise InjectionError(f"layers {sorted(touched)} do not fit an LLM of {layers} layers")
        if not self.tokens:
            return range(0)
        last = layers - 1 if self.last is None else self.last
        if min(self.tokens) < 0 or not max(self.tokens) <= last < layers:
            raise InjectionError(
                f"targets {sorted(self.tokens)} up to layer {last} do not fit "
                f"an LLM of {layers} layers"
            )
        if len({tokens.shape for tokens in self.tokens.values()}) > 1:
            raise InjectionError("every target layer must receive the same number of tokens")
        return range(min(self.tokens), last + 1)


@dataclass
class DecodingState:
    """What incremental decoding remembers: each layer's own keys and values, and which positions
    hold text.

    Layers inside the span of inserted tokens have K more keys than the others. `valid` [B, P + S]
    covers prompt and text so far, False at padding; it is None before the first call.
    """

    cache: BeamCache = field(default_factory=BeamCache)
    valid: Tensor | None = None

    def split(self, beams: int) -> None:
        """Make each sample of the batch `beams` rows, one behind the other."""
        self.cache.split(beams)
        if self.valid is not None:
            self.valid = self.valid.repeat_interleave(beams, dim=0)

    def reorder(self, rows: Tensor) -> None:
        """Put `rows` [B] into that order, each a beam of the same sample as the row it replaces.

        Beams of a sample differ just in what they generated since `split`, all of it valid.
        """
        self.cache.reorder(rows)


@dataclass(frozen=True)
class _Sequence:
    """Positions and mask of the newest tokens of a sequence, among all keys so far."""

    mask: Tensor | None
    positions: Tensor
    rotary: tuple[Tensor, Tensor] | None


def hidden_states(
    llm: LLM,
    token_ids: Tensor,
    injection: Injection,
    valid: Tensor | None = None,
    state: DecodingState | None = None,
) -> Tensor:
    """Hidden states of the text after the last layer, before the final norm: [B, S] -> [B, S, D].

    `valid` [B, S] is False at padding, on any side; None says that padding, if any, is on the
    right, where causal attention makes it harmless. With a `state` the call adds to it: the first
    call places the prompt and the visual tokens, each later call goes on behind the text seen so
    far.
    """
    seen = None if state is None else state.valid
    length = token_ids.shape[1]
    hidden = llm.embed(token_ids)
    if seen is None and injection.prompt is not None:
        prompt = injection.prompt.to(hidden.dtype).expand(len(hidden), -1, -1)  # [B, P, D]
        hidden = torch.cat((prompt, hidden), dim=1)
    outside_valid = _extend(seen, valid, hidden, length)
    plain = valid is None and seen is None and state is None
    positions = _positions(outside_valid, hidden.shape[1])
    hidden = llm.add_positions(hidden, positions)
    outside = _sequence(llm, hidden, outside_valid, hidden.shape[1], plain)

    layers, count = len(llm.layers), injection.count
    span = injection.span(layers)
    if span:
        visual = outside_valid.new_ones(len(hidden), count)
        queries = hidden.shape[1] + (count if seen is None else 0)
        inside = _sequence(llm, hidden, torch.cat((visual, outside_valid), 1), queries, plain)
    for index in range(layers):
        if seen is None and index in injection.tokens:
            text = hidden if index == span.start else hidden[:, count:]
            hidden = torch.cat((injection.tokens[index].to(hidden.dtype), text), dim=1)
        here = inside if index in span else outside
        if seen is None and index in injection.layer_prompts:
            prompt = injection.layer_prompts[index].to(hidden.dtype).expand(len(hidden), -1, -1)
            start = count if index in span else 0
            parts = (hidden[:, :start], prompt, hidden[:, start + prompt.shape[1] :])
            hidden = torch.cat(parts, dim=1)
        if injection.reader is not None and index in injection.cross:
            hidden = hidden + injection.reader(hidden, *injection.cross[index])
        cache = None if state is None else state.cache
        hidden = llm.layer(index, hidden, here.mask, here.positions, here.rotary, cache)
        if seen is None and span and index == span[-1]:
            hidden = hidden[:, count:]
    if state is not None:
        state.valid = outside_valid
    return hidden[:, -length:]


def _extend(seen: Tensor | None, valid: Tensor | None, hidden: Tensor, length: int) -> Tensor:
    """[B, all positions so far] bool: what was seen, then the prompt (always valid), then the new
    text.
    """
    batch, new = hidden.shape[:2]
    prompt = torch.ones(batch, new - length, dtype=torch.bool, device=hidden.device)
    if valid is None:
        valid = torch.ones(batch, length, dtype=torch.bool, device=hidden.device)
    return torch.cat((prompt, valid) if seen is None else (seen, prompt, valid), dim=1)


def _positions(valid: Tensor, queries: int) -> Tensor:
    """[B, keys] -> [B, queries]: positions of the newest tokens, counted over the valid ones."""
    return (valid.long().cumsum(dim=1) - 1).clamp(min=0)[:, -queries:]


def _sequence(llm: LLM, hidden: Tensor, valid: Tensor, queries: int, plain: bool) -> _Sequence:
    positions = _positions(valid, queries)
    rotary = llm.rotary(hidden, positions)
    if plain:
        return _Sequence(None, positions, rotary)
    keys = valid.shape[1]
    last_key = torch.arange(keys - queries, keys, device=valid.device)  # the own key of each query
    causal = torch.arange(keys, device=valid.device) <= last_key[:, None]  # [queries, keys]
    allowed = causal & valid[:, None, None, :]  # [B, 1, queries, keys]
    mask = torch.zeros(allowed.shape, dtype=hidden.dtype, device=hidden.device)
    return _Sequence(mask.masked_fill(~allowed, torch.finfo(hidden.dtype).min), positions, rotary)
