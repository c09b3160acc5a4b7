"""Which of a backbone's tokens a method reads: layers, kept tokens, merged layers."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from depalm.errors import DepalmError


class AdapterError(DepalmError):
    """A method that does not fit its backbone or LLM, or a checkpoint made for others."""


def select_layers(available: int, layers: Mapping[str, int]) -> list[int]:
    """Layer indices out of `available` layers; negative indices count from the end.

    Either ``{count, stride, end}``: `count` layers (1), `stride` apart (1), the last of which is
    `end` (-1), so that ``count: 6, end: -4`` of 32 layers is 23..28; or ``{from, to, stride}``,
    both included. Raises AdapterError if one lies outside or none is left.
    """

    def index(value: int) -> int:
        return value + available if value < 0 else value

    stride = layers.get("stride", 1)
    if "from" in layers:
        chosen = list(range(index(layers["from"]), index(layers.get("to", -1)) + 1, stride))
    else:
        end, count = index(layers.get("end", -1)), layers.get("count", 1)
        chosen = [end - stride * i for i in reversed(range(count))]
    if not chosen or chosen[0] < 0 or chosen[-1] >= available:
        raise AdapterError(f"layers {dict(layers)} do not fit into {available} layers")
    return chosen


class Selection:
    """The tokens that a method (`source`, `tokens`, `merge`) takes from a backbone of `shape`:
    {"layers", "tokens" (with CLS), "width"} and, where the patches are not a square or a sequence,
    "grid": [rows, columns] or [frames, rows, columns].

    `layers` are read, and give `count` sources of T = `tokens` tokens of `width`, whose patches lie
    on `grid`. Raises AdapterError where the method asks for what the backbone does not give.
    """

    def __init__(self, method: Mapping[str, Any], shape: Mapping[str, Any]):
        self.layers = select_layers(shape["layers"], method.get("source", {}))
        self.kept: str = method.get("tokens", "all")
        self.merge: str | None = method.get("merge")
        patches: int = shape["tokens"] - 1
        self.grid: list[int] | None = shape.get("grid")
        if not patches and self.kept == "patches":
            raise AdapterError("the backbone gives a CLS token alone, but the method reads patches")
        self.tokens = {"all": 1 + patches, "patches": patches, "cls": 1}[self.kept]
        self.count = 1 if self.merge else len(self.layers)
        self.width: int = shape["width"] * (len(self.layers) if self.merge == "concat" else 1)

    @property
    def cls_only(self) -> bool:
        """Whether the CLS tokens suffice, of which the cache holds those of every layer."""
        return self.kept == "cls"

    def __call__(self, features: Tensor) -> list[Tensor]:
        """Features of the layers [B, L, T, D] -> the tokens of each source [B, T', D']."""
        kept = {"all": slice(None), "patches": slice(1, None), "cls": slice(1)}[self.kept]
        tokens = features[:, :, kept]
        if self.merge == "mean":
            return [tokens.mean(dim=1)]
        if self.merge == "concat":
            return [tokens.transpose(1, 2).flatten(2)]  # [B, T, L D]
        return list(tokens.unbind(dim=1))
