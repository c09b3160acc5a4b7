"""Connectors: backbone tokens [B, T, D] -> tokens of another width [B, K, D_out].

    tokens -> [Linear to adapter_dim] -> [resampler] -> [mapper] -> [norm] -> Linear (or MLP)

as in METHODS, "Shared vocabulary". Tokens come CLS first; P = T - 1 is the number of patches.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from depalm.adapters.qp_mapper import ACTIVATIONS, ConnectorError, QPMapper
from depalm.adapters.resamplers import RESAMPLERS, RandomSubset, Resampler

NORMS: dict[str, type[nn.Module]] = {
    "none": nn.Identity,
    "rms": nn.RMSNorm,
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

    adapter_dim: width inside; None keeps the backbone's, and no Linear stands in front.
    resampler: `type` of RESAMPLERS and its options, or None.
    mapper: options of :class:`QPMapper`, or None.
    norm: norm in front of the last Linear; None is "rms" behind a resampler, else "none".
    mlp_depth: number of Linear layers at the end, with `activation` between them.
    grid: how the patches lie, where they are not a square or a sequence (see `grouping`).

    Raises ConnectorError where the parts do not fit together or the tokens.
    """

    def __init__(
        self,
        width: int,
        output: int,
        tokens: int,
        adapter_dim: int | None = None,
        resampler: Mapping[str, Any] | None = None,
        mapper: Mapping[str, Any] | None = None,
        norm: str | None = None,
        mlp_depth: int = 1,
        activation: str = "gelu",
        grid: Sequence[int] | None = None,
    ):
        super().__init__()
        inner = adapter_dim or width
        self.project_in = nn.Linear(width, inner) if adapter_dim else nn.Identity()
        self.resampler: Resampler | RandomSubset | None = None
        if resampler is not None:
            options = {key: value for key, value in resampler.items() if key != "type"}
            self.resampler = RESAMPLERS[resampler["type"]](inner, tokens, grid, **options)
            tokens = self.resampler.count
        self.mapper = None if mapper is None else QPMapper(inner, tokens, **mapper)
        norm = norm or ("none" if resampler is None else "rms")
        self.norm = NORMS[norm](inner)
        self.project_out = mlp(inner, output, mlp_depth, activation)

    def forward(self, tokens: Tensor, source: int = 0) -> Tensor:
        """[B, T, D] of the `source`-th source layer -> [B, K, D_out]."""
        tokens = self.project_in(tokens)
        if self.resampler is not None:
            tokens = self.resampler(tokens)
        if self.mapper is not None:
            tokens = self.mapper(tokens, source)
        return self.project_out(self.norm(tokens))


class CrossAttention(nn.Module):
    """Reads the connector's tokens from the LLM's hidden states (METHODS, "c_attn").

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
        self.query_norm = nn.RMSNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.norm = nn.RMSNorm(width)
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
