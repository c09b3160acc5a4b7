"""What a method reads of a backbone and where it acts on an LLM: arithmetic on shapes alone, for
configurations that are checked before any model is there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from depalm.adapters.errors import AdapterError, ConnectorError
from depalm.adapters.grouping import check_heads, resampled
from depalm.specs.backbone import BackboneShape
from depalm.specs.llm import LLMShape
from depalm.specs.method import (
    ConnectorSpec,
    CrossAttentionInjection,
    InnerInjection,
    LayersSpec,
    MethodSpec,
    NoInjection,
    OtherInjection,
    SubsetResampler,
)


@dataclass(frozen=True)
class Sources:
    """The tokens that a method takes from a backbone (`source`, `tokens`, `merge`).

    `layers` are read, and give `count` sources of `tokens` tokens of `width`, whose patches lie on
    `grid` (None: a square or a sequence).
    """

    layers: list[int]
    kept: Literal["all", "cls", "patches"]
    merge: Literal["mean", "concat"] | None
    count: int
    tokens: int
    width: int
    grid: Sequence[int] | None

    @property
    def cls_only(self) -> bool:
        """Whether the summary tokens suffice, of which the cache holds those of every layer."""
        return self.kept == "cls"


@dataclass(frozen=True)
class Layout:
    """A method between a backbone and an LLM; `sources` is None if it reads no backbone."""

    sources: Sources | None
    target_layers: list[int]

    @property
    def source_layers(self) -> list[int]:
        return [] if self.sources is None else self.sources.layers

    @property
    def cls_only(self) -> bool:
        return self.sources is not None and self.sources.cls_only


def layout(method: MethodSpec, backbone: BackboneShape, llm: LLMShape) -> Layout:
    """The layout of a method. Raises AdapterError or ConnectorError if it does not fit the shapes,
    or trains nothing.
    """
    inject, tuned = method.inject, method.finetune
    targets = target_layers(method, llm)
    if isinstance(inject, NoInjection):
        if not (method.prompt_tokens or tuned.llm.any or tuned.backbone.any):
            raise AdapterError("there is nothing to train: no tokens, no prompt and no finetune")
        return Layout(None, targets)
    sources = select(method, backbone)
    if sources.count > len(targets):
        raise AdapterError(
            f"{sources.count} source layers, but {len(targets)} target layers to read them: merge "
            "the sources (mean or concat), or take fewer"
        )
    _check_tokens(method, sources)
    inner = inner_width(method.connector, sources, llm)
    _check_connector(method.connector, sources, inner)
    if isinstance(inject, CrossAttentionInjection):
        width = inject.width or inner
        if width % inject.heads:
            raise ConnectorError(
                f"cross-attention width {width} is not divisible by {inject.heads} heads"
            )
    return Layout(sources, targets)


def target_layers(method: MethodSpec, llm: LLMShape) -> list[int]:
    """The LLM layers that a method acts on. Raises AdapterError if the LLM lacks them."""
    inject = method.inject
    if isinstance(inject, NoInjection):
        return []
    if isinstance(inject, InnerInjection | CrossAttentionInjection | OtherInjection):
        return select_layers(llm.layers, inject.targets)
    return [0]


def select(method: MethodSpec, backbone: BackboneShape) -> Sources:
    """Raises AdapterError if the method asks for what the backbone does not give."""
    layers = select_layers(backbone.layers, method.source)
    patches = backbone.tokens - 1
    if not patches and method.tokens == "patches":
        raise AdapterError("the backbone gives a CLS token alone, but the method reads patches")
    return Sources(
        layers=layers,
        kept=method.tokens,
        merge=method.merge,
        count=1 if method.merge else len(layers),
        tokens={"all": 1 + patches, "patches": patches, "cls": 1}[method.tokens],
        width=backbone.width * (len(layers) if method.merge == "concat" else 1),
        grid=backbone.grid,
    )


def select_layers(available: int, layers: LayersSpec) -> list[int]:
    """Layer indices out of `available` layers; negative indices count from the end.

    Either `count` layers (1), `stride` apart (1), the last of which is `end` (-1), so that
    ``count: 6, end: -4`` of 32 layers is 23..28; or those `from` ... `to`, both included. Raises
    AdapterError if one lies outside or none is left.
    """

    def index(value: int | None) -> int:
        place = -1 if value is None else value
        return place + available if place < 0 else place

    if layers.start is not None:
        chosen = list(range(index(layers.start), index(layers.to) + 1, layers.stride))
    else:
        end, count = index(layers.end), layers.count or 1
        chosen = [end - layers.stride * i for i in reversed(range(count))]
    if not chosen or chosen[0] < 0 or chosen[-1] >= available:
        raise AdapterError(f"layers {layers.given()} do not fit into {available} layers")
    return chosen


def inner_width(connector: ConnectorSpec, sources: Sources, llm: LLMShape) -> int:
    """The width inside a connector (`adapter_dim`); without one, that of the tokens."""
    chosen = llm.width if connector.adapter_dim == "llm" else connector.adapter_dim
    return chosen or sources.width


def _check_connector(connector: ConnectorSpec, sources: Sources, inner: int) -> None:
    if connector.resampler is not None:
        resampled(connector.resampler, inner, sources.tokens, sources.grid)
    mapper = connector.mapper
    if mapper is None:
        return
    check_heads(inner, mapper.heads, mapper.positions)
    if mapper.query_per_layer and mapper.queries is None:
        raise AdapterError("query_per_layer asks for queries of each layer, but there are none")


def _check_tokens(method: MethodSpec, sources: Sources) -> None:
    """Refuse what would mistake one token for another, or leave targets of unequal length."""
    resampler, mapper = method.connector.resampler, method.connector.mapper
    positions = "none" if mapper is None else mapper.positions
    if sources.kept == "patches" and (resampler is not None or positions == "cls"):
        what = "positions: cls" if resampler is None else "a resampler"
        raise AdapterError(f"{what} takes the first token for CLS: use tokens: all (and cls: drop)")
    if isinstance(resampler, SubsetResampler):
        if positions == "learned":
            raise AdapterError("positions: learned needs fixed places, which a random subset lacks")
        if isinstance(method.inject, InnerInjection) and sources.count > 1:
            raise AdapterError(
                "a random subset has another size for each source, but inner targets must receive "
                "equally many tokens: read one source layer, or merge them"
            )
