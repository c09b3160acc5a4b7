"""The QPMapper: learned queries and a transformer encoder (docs/methods.md#mapper)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from depalm.adapters.grouping import check_heads

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}


class EncoderLayer(nn.Module):
    """A transformer encoder layer [B, T, D] -> [B, T, D], feed-forward width D.

    Norms stand behind the residual sums (`norm_first`: in front of the branches). With `rotary`,
    attention knows positions, counted from 0.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float,
        activation: str,
        norm_first: bool,
        rotary: bool,
    ):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm_first, self.rotary = norm_first, rotary
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, width),
            ACTIVATIONS[activation](),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.Dropout(dropout),
        )
        self.attention_norm = nn.LayerNorm(width, eps=1e-4)
        self.feed_forward_norm = nn.LayerNorm(width, eps=1e-4)
        nn.init.xavier_uniform_(self.attention_in.weight)
        nn.init.zeros_(self.attention_in.bias)
        nn.init.zeros_(self.attention_out.bias)

    def forward(self, tokens: Tensor, last: int) -> Tensor:
        """[B, T, D] -> [B, last, D]: the outputs at the last positions, which read all tokens."""
        kept = tokens[:, -last:]
        if self.norm_first:
            kept = kept + self._attend(self.attention_norm(tokens), last)
            return kept + self.feed_forward(self.feed_forward_norm(kept))
        kept = self.attention_norm(kept + self._attend(tokens, last))
        return self.feed_forward_norm(kept + self.feed_forward(kept))

    def _attend(self, tokens: Tensor, last: int) -> Tensor:
        count, width = tokens.shape[1:]
        of_query, of_others = self.attention_in.weight.split((width, 2 * width))
        query_bias, other_bias = self.attention_in.bias.split((width, 2 * width))
        query = self._heads(nn.functional.linear(tokens[:, -last:], of_query, query_bias))
        others = nn.functional.linear(tokens, of_others, other_bias)
        key, value = (self._heads(part) for part in others.chunk(2, dim=-1))
        if self.rotary:
            query, key = rotate(query, count - last), rotate(key)
        dropout = self.dropout if self.training else 0.0
        read = nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        output = self.attention_out(read.transpose(1, 2).flatten(2))  # [B, last, D]
        return nn.functional.dropout(output, self.dropout, self.training)

    def _heads(self, values: Tensor) -> Tensor:
        """[B, T, D] -> [B, heads, T, D / heads]."""
        return values.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class QPMapper(nn.Module):
    """Learned queries appended to the tokens, an encoder, and the outputs at the queries'
    positions.

    tokens: T, the number of tokens it is built for.
    queries: K (normal init, std 1); None keeps the outputs at all positions, K = T.
    query_sets: number of sets of queries, one for each source layer where it is not 1.
    positions: what tells the tokens apart: "none"; "cls", a learned vector on the CLS token;
    "learned", a vector for every token; "rotary", the position in the sequence of tokens and
    queries.
    """

    def __init__(
        self,
        width: int,
        tokens: int,
        layers: int,
        queries: int | None = None,
        heads: int = 8,
        dropout: float = 0.1,
        activation: str = "gelu",
        norm_first: bool = False,
        positions: str = "none",
        query_sets: int = 1,
    ):
        super().__init__()
        check_heads(width, heads, positions)
        self.layers = nn.ModuleList(
            EncoderLayer(width, heads, dropout, activation, norm_first, positions == "rotary")
            for _ in range(layers)
        )
        self.queries = None
        if queries is not None:
            self.queries = nn.Parameter(torch.randn(query_sets, queries, width))
        marks = {"cls": 1, "learned": tokens}.get(positions, 0)
        self.marks = nn.Parameter(torch.randn(marks, width)) if marks else None

    def forward(self, tokens: Tensor, source: int = 0) -> Tensor:
        """[B, T, D] of the `source`-th source layer -> [B, K, D]."""
        if self.marks is not None:
            marks = nn.functional.pad(self.marks, (0, 0, 0, tokens.shape[1] - len(self.marks)))
            tokens = tokens + marks
        count = tokens.shape[1]
        if self.queries is not None:
            queries = self.queries[source % len(self.queries)].expand(len(tokens), -1, -1)
            tokens = torch.cat((tokens, queries), dim=1)  # [B, T + K, D]
            count = queries.shape[1]
        for layer in self.layers[:-1]:
            tokens = layer(tokens, tokens.shape[1])
        for layer in self.layers[-1:]:  # none if the mapper has no layers
            tokens = layer(tokens, count)
        return tokens[:, -count:]


def rotate(values: Tensor, first: int = 0) -> Tensor:
    """Rotary position encoding (RoFormer) of [B, heads, T, D], positions counted from `first`."""
    count, width = values.shape[-2:]
    exponents = torch.arange(0, width, 2, device=values.device) / width
    positions = torch.arange(first, first + count, device=values.device)
    angles = positions[:, None] * 10000.0**-exponents  # [T, D / 2]
    cosine, sine = angles.cos(), angles.sin()
    one, other = values.chunk(2, dim=-1)
    return torch.cat((one * cosine - other * sine, other * cosine + one * sine), dim=-1)
