"""The places where an adapter's tokens come into the LLM: one class each, by the names of INJECTORS
(docs/methods.md#l0-injection and the sections behind it).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from depalm.adapters.connector import NORMS, CrossAttention
from depalm.llms.injection import Injection
from depalm.specs.llm import LLMShape
from depalm.specs.method import CrossAttentionInjection, L0Injection

Value = TypeVar("Value")


class Injector(ABC):
    """Turns the connected tokens of the sources into what the LLM receives at `targets`.

    spec: the method's `inject`.
    inner: the width inside the connectors.

    The modules that it trains are the adapter's: `reader` stands in front of its connectors in the
    order of parameters, `scales` behind them.
    """

    reader: nn.Module | None = None
    scales: Sequence[nn.Module] = ()

    def __init__(self, spec: Any, targets: list[int], llm: LLMShape, inner: int):  # noqa: ARG002
        self.targets = targets
        self.width = llm.width  # of the tokens that the connectors make

    @abstractmethod
    def inject(self, sources: Sequence[Tensor]) -> Injection:
        """The tokens [B, K, width] of each source -> what the LLM receives."""

    def read(self, sources: Sequence[Value]) -> dict[int, Value]:
        """The source of each target: target i of n reads source (i * sources) // n."""
        count = len(self.targets)
        return {t: sources[(i * len(sources)) // count] for i, t in enumerate(self.targets)}


class Nowhere(Injector):
    """No visual token."""

    def inject(self, sources: Sequence[Tensor]) -> Injection:  # noqa: ARG002
        return Injection()


class AtInnerLayers(Injector):
    """In front of the sequence at each target; further targets overwrite what is there."""

    def __init__(self, spec: L0Injection, targets: list[int], llm: LLMShape, inner: int):
        super().__init__(spec, targets, llm, inner)
        self.last = None if spec.keep else targets[-1]
        if spec.token_norm != "none" or spec.scale or spec.bias or spec.gate:
            self.scales = [TokenScale(llm.width, spec) for _ in targets]

    def inject(self, sources: Sequence[Tensor]) -> Injection:
        tokens: Mapping[int, Tensor] = self.read(sources)
        if self.scales:
            pairs = zip(tokens.items(), self.scales, strict=True)
            tokens = {target: scale(value) for (target, value), scale in pairs}
        return Injection(tokens, self.last)


class AtInput(AtInnerLayers):
    """In front of the sequence from the first layer on."""


class ByCrossAttention(Injector):
    """Read by cross-attention in front of each target."""

    reader: CrossAttention

    def __init__(
        self, spec: CrossAttentionInjection, targets: list[int], llm: LLMShape, inner: int
    ):
        super().__init__(spec, targets, llm, inner)
        self.width = spec.width or inner
        self.reader = CrossAttention(self.width, llm.width, spec.heads, spec.gate)

    def inject(self, sources: Sequence[Tensor]) -> Injection:
        pairs = [self.reader.keys_values(tokens) for tokens in sources]
        return Injection(cross=self.read(pairs), reader=self.reader)


class TokenScale(nn.Module):
    """The change of a target's tokens [B, K, D]: norm, then a learned scale, bias and gate."""

    def __init__(self, width: int, spec: L0Injection):
        super().__init__()
        self.norm = NORMS[spec.token_norm](width)
        self.scale = nn.Parameter(torch.ones(width)) if spec.scale else None
        self.bias = nn.Parameter(torch.zeros(width)) if spec.bias else None
        self.gate = nn.Parameter(torch.zeros(1)) if spec.gate else None

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.norm(tokens)
        if self.scale is not None:
            tokens = tokens * self.scale
        if self.bias is not None:
            tokens = tokens + self.bias
        return tokens if self.gate is None else tokens * torch.tanh(self.gate)
