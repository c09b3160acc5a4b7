"""The LLM as beam search asks it: prompts, then one token for each beam at a time."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from depalm.llms.base import LLM
from depalm.llms.injection import DecodingState, Injection, hidden_states
from depalm.llms.kv_cache import FixedCache
from depalm.specs.settings import GenerateSpec


class Decoder:
    """Log probabilities of the next token of texts, for `beams` of each sample."""

    def __init__(self, llm: LLM):
        self.llm = llm
        self.state = DecodingState()
        self.injection = Injection()

    def start(
        self, token_ids: Tensor, valid: Tensor, injection: Injection, rows: Tensor | None
    ) -> Tensor:
        """-> [B, V] behind each prompt [B, S]; see `beam_search`."""
        self.state = state = DecodingState()
        if rows is not None:
            shared = int(rows.max()) + 1
            hidden_states(self.llm, token_ids.new_empty(shared, 0), injection, None, state)
            state.select(rows)
            injection = injection.select(rows)
        self.injection = injection
        hidden = hidden_states(self.llm, token_ids, injection, valid, state)
        return self._log_probs(hidden[:, -1])

    def step(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """-> [B, beams, V] behind `tokens` [B, beams], each of which goes on from the beam that
        `parents` [B, beams] has.
        """
        self.state.branch(parents)
        return self._log_probs(hidden_states(self.llm, tokens, self.injection, None, self.state))

    def _log_probs(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        return self.llm.head(hidden).float().log_softmax(-1)


class RowDecoder(Decoder):
    """A decoder for LLMs with recurrent layers: each text has a row of its own, which is copied
    when texts branch.
    """

    def __init__(self, llm: LLM):
        super().__init__(llm)
        self.branched = False

    def start(
        self, token_ids: Tensor, valid: Tensor, injection: Injection, rows: Tensor | None
    ) -> Tensor:
        self.branched = False
        own = injection if rows is None else injection.select(rows)
        return super().start(token_ids, valid, own, None)

    def step(self, parents: Tensor, tokens: Tensor) -> Tensor:
        batch, beams = parents.shape
        samples = torch.arange(batch, device=parents.device)[:, None]
        rows = (samples * beams + parents if self.branched else samples.expand(-1, beams)).flatten()
        if not self.branched:
            self.injection, self.branched = self.injection.select(rows), True
        self.state.select(rows)
        hidden = hidden_states(self.llm, tokens.view(-1, 1), self.injection, None, self.state)
        return self._log_probs(hidden[:, 0]).view(batch, beams, -1)  # [B beams, V] -> [B, beams, V]


@dataclass
class _FixedState(DecodingState):
    """A state whose tensors keep their places and sizes: a step has `slots` [beams] of all that is
    generated for its tokens.
    """

    slots: Tensor = field(default_factory=lambda: torch.empty(0))

    def branch(self, parents: Tensor) -> None:
        assert self.lineage is not None
        batch, beams = parents.shape
        own = torch.eye(beams, dtype=torch.bool, device=parents.device).expand(batch, -1, -1)
        expanded = parents[:, :, None].expand(-1, -1, self.lineage.shape[2])
        self.lineage.copy_(self.lineage.gather(1, expanded).index_copy(2, self.slots, own))


class FixedDecoder(Decoder):
    """A decoder whose steps have fixed shapes and addresses, for up to `new_tokens` tokens; on a
    GPU they are recorded once, and replayed as one CUDA graph.

    It is good for any number of batches of one shape: B prompts of S tokens, with an injection of
    one kind. A batch of another shape is recorded anew.
    """

    def __init__(self, llm: LLM, beams: int, new_tokens: int):
        super().__init__(llm)
        self.beams, self.new_tokens = beams, new_tokens
        self.shape: Any = None

    def start(
        self, token_ids: Tensor, valid: Tensor, injection: Injection, rows: Tensor | None
    ) -> Tensor:
        log_probs = super().start(token_ids, valid, injection, rows)
        crossed = [tensor for pair in self.injection.cross.values() for tensor in pair]
        shape = (token_ids.shape, self.injection.count, [tensor.shape for tensor in crossed])
        if shape == self.shape:
            self._refill(crossed)
        else:
            self.shape = shape
            self._make(log_probs)
        return log_probs

    def _make(self, log_probs: Tensor) -> None:
        """The tensors of the steps, holding what the prompts left."""
        prompt, beams, device = self.state, self.beams, log_probs.device
        assert prompt.valid is not None
        batch, total = len(prompt.valid), beams * self.new_tokens
        slots = torch.arange(beams, device=device)
        lineage = torch.zeros(batch, beams, total, dtype=torch.bool, device=device)
        cache = FixedCache(prompt.cache, total, slots)
        self.fixed = _FixedState(cache, prompt.valid, lineage, slots)
        self.kept = self.injection
        self.parents = torch.zeros(batch, beams, dtype=torch.long, device=device)
        self.tokens = torch.zeros_like(self.parents)
        self.found = log_probs[:, None].repeat(1, beams, 1)
        self.graph = self._recorded() if device.type == "cuda" else None

    def _refill(self, crossed: list[Tensor]) -> None:
        """Put another batch into the tensors."""
        fixed = self.fixed
        assert fixed.valid is not None
        assert fixed.lineage is not None
        assert self.state.valid is not None
        fixed.cache.refill(self.state.cache)
        fixed.valid.copy_(self.state.valid)
        self._begin()
        kept = [tensor for pair in self.kept.cross.values() for tensor in pair]
        for target, source in zip(kept, crossed, strict=True):
            target.copy_(source)

    def _begin(self) -> None:
        assert self.fixed.lineage is not None
        self.fixed.lineage.zero_()
        self.fixed.slots.copy_(torch.arange(self.beams, device=self.fixed.slots.device))

    def step(self, parents: Tensor, tokens: Tensor) -> Tensor:
        self.parents.copy_(parents)
        self.tokens.copy_(tokens)
        if self.graph is None:
            self._run()
        else:
            self.graph.replay()
        return self.found

    def _run(self) -> None:
        self.fixed.branch(self.parents)
        hidden = hidden_states(self.llm, self.tokens, self.kept, None, self.fixed)
        self.found.copy_(self._log_probs(hidden))
        self.fixed.slots.add_(self.beams)

    def _recorded(self) -> "torch.cuda.CUDAGraph":
        """The graph of a step, recorded after steps that load what its kernels need."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(min(2, self.new_tokens)):
                self._run()
        torch.cuda.current_stream().wait_stream(stream)
        self._begin()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._run()
        self._begin()
        return graph


def decoder_of(llm: LLM, decoding: GenerateSpec) -> Decoder:
    """The decoder for an LLM; those with recurrent layers have no steps of fixed shapes."""
    if llm.recurs:
        return RowDecoder(llm)
    if decoding.fixed_shapes:
        return FixedDecoder(llm, decoding.beams, decoding.max_new_tokens)
    return Decoder(llm)
