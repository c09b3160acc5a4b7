"""Connectors: backbone tokens [B, T, D] -> tokens of another width [B, K, D_out].

    tokens -> [Linear to adapter_dim] -> [resampler] -> [mapper] -> [norm] -> Linear (or MLP)

(docs/methods.md#connector). Tokens come CLS first; P = T - 1 is the number of patches.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from depalm.adapters.errors import ConnectorError
from depalm.adapters.qp_mapper import ACTIVATIONS, QPMapper
from depalm.adapters.registry import RESAMPLERS
from depalm.adapters.resamplers import RandomSubset, Resampler
from depalm.specs.method import ConnectorSpec


class RMSNorm(nn.RMSNorm):
    """In float32, also of tokens in half precision."""

    def __init__(self, width: int):
        super().__init__(width, eps=1e-4)

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return super().forward(tokens.float())


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": nn.Identity,
    "rms": RMSNorm,
    "layer": nn.LayerNorm,
}


def mlp(
    width: int, output: int, depth: int, activation: str = "gelu", hidden: int = 0
) -> nn.Module:
    """`depth` Linear layers from `width` to `output` with the activation between; 1 is a Linear."""
    widths = [width, *[hidden or output] * (depth - 1), output]
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(widths[i], widths[i + 1]), ACTIVATIONS[activation]()]
    return layers[0] if depth == 1 else nn.Sequential(*layers[:-1])


class Connector(nn.Module):
    """The part of an adapter between backbone and injection, for the tokens of one source layer.

    spec: the method's `connector`; its `norm` is "rms" behind a resampler, else "none", unless it
        says another.
    width, inner, output: of what goes in, of what is inside, and of what comes out.
    tokens, grid: how many tokens go in (CLS counted), and how the patches lie (see `grouping`).
    query_sets: sets of queries of the mapper, one for each source layer if it is not 1.

    Raises ConnectorError if the parts do not fit together, or the tokens.
    """

    def __init__(
        self,
        spec: ConnectorSpec,
        width: int,
        inner: int,
        output: int,
        tokens: int,
        grid: Sequence[int] | None = None,
        query_sets: int = 1,
    ):
        super().__init__()
        self.project_in = nn.Linear(width, inner) if spec.adapter_dim else nn.Identity()
        self.resampler: Resampler | RandomSubset | None = None
        if spec.resampler is not None:
            options = spec.resampler.model_dump(exclude={"type"})
            self.resampler = RESAMPLERS[spec.resampler.type](inner, tokens, grid, **options)
            tokens = self.resampler.count
        self.mapper = None
        if spec.mapper is not None:
            options = spec.mapper.model_dump(exclude={"query_per_layer"})
            self.mapper = QPMapper(inner, tokens, query_sets=query_sets, **options)
        norm = spec.norm or ("none" if spec.resampler is None else "rms")
        self.norm, self.norm_at = NORMS[norm](inner), spec.norm_at
        self.project_out = mlp(inner, output, spec.mlp_depth, spec.activation)

    def forward(self, tokens: Tensor, source: int = 0) -> Tensor:
        """[B, T, D] of the `source`-th source layer -> [B, K, D_out]."""
        tokens = self.project_in(tokens)
        if self.resampler is not None:
            tokens = self.resampler(tokens)
        if self.norm_at == "resampler":
            tokens = self.norm(tokens)
        if self.mapper is not None:
            tokens = self.mapper(tokens, source)
        if self.norm_at == "output":
            tokens = self.norm(tokens)
        return self.project_out(tokens)


class CrossAttention(nn.Module):
    """Reads the connector's tokens from the LLM's hidden states (docs/methods.md#cross-attention).

    Query: MLP 4096 -> 1024 -> 1024 and RMS norm, then a projection; key and value projections of
    the tokens; heads; RMS norm and a projection back to the LLM's width, times tanh(gate). The gate
    starts at 0, so an untrained module adds nothing.
    """

    def __init__(self, width: int, llm_width: int, heads: int = 8, gate: bool = True):
        super().__init__()
        if width % heads:
            raise ConnectorError(f"cross-attention width {width} is not divisible by {heads} heads")
        self.heads = heads
        self.query_in = mlp(llm_width, width, depth=2)
        self.query_norm = RMSNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.norm = RMSNorm(width)
        self.project_out = nn.Linear(width, llm_width)
        self.gate = nn.Parameter(torch.zeros(1)) if gate else None

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, D] -> keys and values [B, heads, T, D / heads]."""
        return self._split(self.key(tokens)), self._split(self.value(tokens))

    def forward(self, hidden: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Hidden states [B, S, D_llm] -> what is added to them; a position sees itself and the
        tokens.
        """
        query = self._split(self.query(self.query_norm(self.query_in(hidden.float()))))
        read = nn.functional.scaled_dot_product_attention(query, keys, values)
        merged = read.transpose(1, 2).flatten(2)  # [B, heads, S, D / heads] -> [B, S, D]
        output: Tensor = self.project_out(self.norm(merged))
        if self.gate is not None:
            output = torch.tanh(self.gate) * output
        return output.to(hidden.dtype)

    def _split(self, values: Tensor) -> Tensor:
        """[B, T, D] -> [B, heads, T, D / heads]."""
        return values.unflatten(-1, (self.heads, -1)).transpose(1, 2)
