"""Injection of an adapter's tokens into a frozen LLM, at any layer, with its own positions, mask
and KV cache.

The sequence at a layer is ``[F start of a chat] [K visual tokens] [P prompt tokens] [S text
tokens]``; only chats have a start (`LLM.front`). The visual tokens stand in it only from their
first target layer to their last one; at every further target layer they are overwritten by that
layer's own tokens (DePALM, section 3; docs/methods.md#inner-injection). Attention is causal over
whatever stands in the sequence, and rotary positions count from 0 over it, so they shift where
tokens are inserted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from depalm.errors import DepalmError
from depalm.llms.base import LLM, Rotary
from depalm.llms.kv_cache import GrowingCache
from depalm.llms.places import Places, branches, in_a_row, side_by_side, unpadded


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
    """What incremental decoding remembers: each layer's own keys and values, and what stands where.

    Layers inside the span of inserted tokens have K more keys than the others. `valid` [B, P + S]
    covers prompt and text so far, False at padding; it is None before the first call. `lineage`
    [B, beams, N] says which of the tokens that were generated belong to the text of each beam; it
    is None until the texts branch.
    """

    cache: GrowingCache = field(default_factory=GrowingCache)
    valid: Tensor | None = None
    lineage: Tensor | None = None

    def select(self, rows: Tensor) -> None:
        """Make the batch that of `rows` [B'], each one of those that are there."""
        self.cache.select(rows)
        if self.valid is not None:
            self.valid = self.valid[rows]

    def branch(self, parents: Tensor) -> None:
        """Let each beam go on from the text of its parent: `parents` [B, beams] are beams of the
        same sample. The next call has one token for each beam.
        """
        batch, beams = parents.shape
        own = torch.eye(beams, dtype=torch.bool, device=parents.device).expand(batch, -1, -1)
        if self.lineage is None:
            self.lineage = own
            return
        before = self.lineage.gather(1, parents[:, :, None].expand(-1, -1, self.lineage.shape[2]))
        self.lineage = torch.cat((before, own), dim=2)


def hidden_states(
    llm: LLM,
    token_ids: Tensor,
    injection: Injection,
    valid: Tensor | None = None,
    state: DecodingState | None = None,
    texts: Tensor | None = None,
) -> Tensor:
    """Hidden states of the text after the last layer, before the final norm: [B, S] -> [B, S, D].

    `valid` [B, S] is False at padding, on any side; None says that padding, if any, is on the
    right, where causal attention makes it harmless. With a `state` the call adds to it: the first
    call places the prompt and the visual tokens (S may be 0), each later call goes on behind the
    text seen so far, or once it branches, with a token for each beam. With `texts` [B, S] a row
    holds several texts behind the same visual tokens; it has the number of each token's.
    """
    fresh = state is None or state.valid is None
    recurs = llm.recurs
    if recurs:
        _require_one_text(valid, state, texts)
    length = token_ids.shape[1]
    hidden = llm.embed(token_ids)
    places = _places(hidden, valid, state, texts)
    before = _before(llm, injection, hidden) if fresh else hidden[:, :0]  # [B, F + P, D]
    front = len(llm.front) if fresh else 0
    if added := before.shape[1]:
        hidden = torch.cat((before, hidden), dim=1)
        places = places.behind(added, new=True)
        if state is not None and state.valid is not None:
            state.valid = torch.nn.functional.pad(state.valid, (added, 0), value=True)
    hidden = llm.add_positions(hidden, places.positions)
    outside = _attention(llm, hidden, places)

    layers, count = len(llm.layers), injection.count
    span = injection.span(layers)
    if span:
        inside = _attention(llm, hidden, places.behind(count, new=fresh))
    for index in range(layers):
        if fresh and index in injection.tokens:
            behind = front if index == span.start else front + count
            tokens = injection.tokens[index].to(hidden.dtype)
            hidden = torch.cat((hidden[:, :front], tokens, hidden[:, behind:]), dim=1)
        here = inside if index in span else outside
        if fresh and index in injection.layer_prompts:
            prompt = injection.layer_prompts[index].to(hidden.dtype).expand(len(hidden), -1, -1)
            start = front + count if index in span else front
            parts = (hidden[:, :start], prompt, hidden[:, start + prompt.shape[1] :])
            hidden = torch.cat(parts, dim=1)
        if hidden.shape[1]:  # nothing stands in front of the first target yet, if S is 0
            if injection.reader is not None and index in injection.cross:
                hidden = hidden + injection.reader(hidden, *injection.cross[index])
            cache = None if state is None else state.cache
            if recurs and llm.recurrent(index):
                hidden = _recurred(llm, index, hidden, here, cache)
            else:
                mask = here.masks[llm.window(index)]
                hidden = llm.layer(index, hidden, mask, here.positions, here.rotary, cache)
        if fresh and span and index == span[-1]:
            behind_them = hidden[:, front + count :]
            hidden = torch.cat((hidden[:, :front], behind_them), dim=1) if front else behind_them
    return hidden[:, hidden.shape[1] - length :]


def _before(llm: LLM, injection: Injection, hidden: Tensor) -> Tensor:
    """What stands in front of the text [B, S, D] at the embedding: the start of a chat, and the
    learned prompt, [B, F + P, D].
    """
    ids = torch.tensor(llm.front, dtype=torch.long, device=hidden.device)
    parts = [llm.embed(ids)] if llm.front else []
    parts += [] if injection.prompt is None else [injection.prompt.to(hidden.dtype)]
    if not parts:
        return hidden[:, :0]
    return torch.cat(parts).expand(len(hidden), -1, -1)


def _places(
    hidden: Tensor, valid: Tensor | None, state: DecodingState | None, texts: Tensor | None
) -> Places:
    """The places of the new text [B, S, D]; a `state` learns of it."""
    batch, length = hidden.shape[:2]
    if texts is not None:
        return side_by_side(texts)
    if state is None and valid is None:
        return unpadded(batch, length, hidden.device)
    if state is not None and state.lineage is not None:
        assert state.valid is not None
        return branches(state.valid, state.lineage)
    if valid is None:
        valid = torch.ones(batch, length, dtype=torch.bool, device=hidden.device)
    if state is not None:
        valid = valid if state.valid is None else torch.cat((state.valid, valid), dim=1)
        state.valid = valid
    return in_a_row(valid, length)


@dataclass(frozen=True)
class _Attention:
    """What a layer is told of the new tokens; of the masks that of its window."""

    masks: Mapping[int | None, Tensor | None]
    valid: Tensor | None
    positions: Tensor
    rotary: Rotary


def _attention(llm: LLM, hidden: Tensor, places: Places) -> _Attention:
    rotary = llm.rotary(hidden, places.positions)
    windows = {llm.window(index) for index in range(len(llm.layers))}
    masks = {w: places.mask(hidden.dtype, w, needed=llm.needs_mask) for w in windows}
    return _Attention(masks, places.valid, places.positions, rotary)


def _require_one_text(
    valid: Tensor | None, state: DecodingState | None, texts: Tensor | None
) -> None:
    """Raise InjectionError for what a recurrent layer cannot be told."""
    if texts is not None or (state is not None and state.lineage is not None):
        raise InjectionError("recurrent layers remember one text in a row, and not several")
    going_on = state is not None and state.valid is not None
    if going_on and valid is not None and not valid.all():
        raise InjectionError("recurrent layers forget what stands in front of padding")


def _recurred(
    llm: LLM, index: int, hidden: Tensor, here: _Attention, cache: GrowingCache | None
) -> Tensor:
    """Hidden states [B, S, D] behind a recurrent layer. Padding would fade what is remembered, so
    that it is put in front of everything, where nothing is remembered yet.
    """
    if here.valid is None or hidden.shape[1] == 1:
        return llm.layer(index, hidden, None, here.positions, here.rotary, cache)
    order = here.valid.long().argsort(dim=1, stable=True)  # [B, S]
    moved, valid = _taken(hidden, order), here.valid.gather(1, order)
    found = llm.layer(index, moved, valid, here.positions, here.rotary, cache)
    return _taken(found, order.argsort(dim=1))


def _taken(hidden: Tensor, order: Tensor) -> Tensor:
    """hidden [B, S, D] in another order [B, S] of each row."""
    return hidden.gather(1, order[:, :, None].expand_as(hidden))
