"""The arithmetic of a run, from shapes alone: floating-point operations of matrix products.

A Linear from m to n takes 2 m n operations a position, attention 4 D times the positions that are
seen. A layer of a frozen transformer of width D counts 12 D^2 weights (attention 4, feed-forward
8), which is within a tenth of those of LLaMA, OPT and ViT. Norms, activations, bias tuning and
TimeSformer's second attention are left out.
"""

from dataclasses import dataclass

from depalm.adapters.grouping import resampled
from depalm.adapters.layout import Layout, Sources, inner_width
from depalm.specs import LLMSpec, MethodSpec
from depalm.specs.backbone import BackboneShape
from depalm.specs.method import (
    CrossAttentionInjection,
    GroupResampler,
    InnerInjection,
    L0Injection,
    MapperResampler,
    MapperSpec,
    NoInjection,
    OtherInjection,
    SubsetResampler,
)

VOCABULARY = 32_000  # of a head whose size is not known
LAYER_WEIGHTS = 12  # of a frozen transformer layer, in squares of its width
# positions that a chat's template puts around the prompt: from 15 (Qwen 3) to 40 (Llama 3.2)
CHAT = 30


@dataclass(frozen=True)
class AdapterWork:
    """The arithmetic of an adapter.

    tokens: that come into the LLM at a target. parameters: about, without bias tuning.
    media, position: operations of a forward pass for a sample's media, and for each position of
    the LLM.
    """

    tokens: int
    parameters: int
    media: float
    position: float = 0.0


@dataclass(frozen=True)
class LLMWork:
    """Operations of an LLM for a text: forward, backward to what is injected, and the head on one
    position.
    """

    forward: float
    backward: float
    head: float


def backbone_work(shape: BackboneShape) -> float:
    """Operations of a forward pass on one file."""
    return _layers(shape.layers, shape.width, shape.tokens)


def adapter_work(
    method: MethodSpec, layout: Layout, llm: LLMSpec, training: bool = True
) -> AdapterWork:
    """The arithmetic of a method between a backbone and an LLM, in training or in generation."""
    width, prompt = llm.shape.width, method.prompt_tokens
    if layout.sources is None:
        return AdapterWork(0, prompt * width, 0.0)
    sources, inject = layout.sources, method.inject
    inner = inner_width(method.connector, sources, llm.shape)
    reads = isinstance(inject, CrossAttentionInjection)
    once = _connector(method, sources, inner, inner if reads else width, training)
    connectors = 1 if method.connector.shared else sources.count
    weights = once.parameters * connectors + prompt * width
    if not isinstance(inject, CrossAttentionInjection):
        return AdapterWork(once.tokens, weights, once.media * sources.count)
    # of one module for all targets: two Linears and a projection of the query, the projection back,
    # and for each source keys and values of the tokens
    inside, targets = inject.width or inner, len(layout.target_layers)
    of_query = width * inside + 2 * inside**2 + inside * width
    of_tokens = 2 * inner * inside
    return AdapterWork(
        tokens=once.tokens,
        parameters=weights + of_query + of_tokens,
        media=(once.media + 2.0 * once.tokens * of_tokens) * sources.count,
        position=targets * (2.0 * of_query + 4.0 * once.tokens * inside),
    )


def llm_work(method: MethodSpec, layout: Layout, llm: LLMSpec, tokens: int, text: float) -> LLMWork:
    """The arithmetic of an LLM on `text` positions, and `tokens` that a method puts before them."""
    count, width = llm.shape.layers, llm.shape.width
    text += positions_beside(method, llm)
    first, last = _layers_with_tokens(method, layout, count)
    both, alone = last - first, count - (last - first)
    forward = _layers(both, width, text + tokens) + _layers(alone, width, text)
    trained_from = 0 if method.prompt_tokens or method.finetune.llm.any else first
    # to the inputs alone: a frozen Linear once more, attention twice
    part = (count - trained_from) / count
    backward = part * (
        _layers(both, width, text + tokens, attention=8.0)
        + _layers(alone, width, text, attention=8.0)
    )
    return LLMWork(forward, backward, head=2.0 * width * VOCABULARY)


def positions_beside(method: MethodSpec, llm: LLMSpec) -> int:
    """The positions that a method's learned prompt and a chat's template take beside the text."""
    return method.prompt_tokens + (CHAT if llm.chat else 0)


def llm_weights(llm: LLMSpec) -> int:
    """The weights of an LLM, about: its layers, embedding and head."""
    width = llm.shape.width
    return LAYER_WEIGHTS * llm.shape.layers * width**2 + 2 * VOCABULARY * width


def backbone_weights(shape: BackboneShape) -> int:
    return LAYER_WEIGHTS * shape.layers * shape.width**2


def _layers(count: int, width: int, positions: float, attention: float = 4.0) -> float:
    """A forward pass through `count` frozen layers, in which every position sees every other."""
    return count * positions * (2.0 * LAYER_WEIGHTS * width**2 + attention * positions * width)


def _layers_with_tokens(method: MethodSpec, layout: Layout, count: int) -> tuple[int, int]:
    """The first LLM layer that a method acts on, and the one behind the last in which its tokens
    stand in the sequence.
    """
    inject, targets = method.inject, layout.target_layers
    if isinstance(inject, NoInjection):
        return 0, 0
    if isinstance(inject, L0Injection | InnerInjection):
        return targets[0], count if inject.keep else targets[-1] + 1
    assert isinstance(inject, CrossAttentionInjection | OtherInjection)
    return targets[0], targets[0]


def _connector(
    method: MethodSpec, sources: Sources, inner: int, output: int, training: bool
) -> AdapterWork:
    """The connector on the tokens of one source."""
    spec, tokens = method.connector, sources.tokens
    weights = media = 0.0
    if spec.adapter_dim:
        weights += sources.width * inner
        media += 2.0 * tokens * sources.width * inner
    if spec.resampler is not None:
        kept = resampled(spec.resampler, inner, tokens, sources.grid)
        if training and isinstance(spec.resampler, SubsetResampler):
            kept = max(1, round(spec.resampler.mean * kept))
        if isinstance(spec.resampler, MapperResampler):
            made = _mapper(spec.resampler, inner, tokens, kept, learned=1)
        elif isinstance(spec.resampler, GroupResampler) and spec.resampler.type == "linear":
            linear = spec.resampler.factor * inner**2
            made = AdapterWork(kept, linear, 2.0 * kept * linear)
        else:
            made = AdapterWork(kept, 0, 0.0)
        weights, media, tokens = weights + made.parameters, media + made.media, kept
    if spec.mapper is not None:
        queries = spec.mapper.queries
        sets = sources.count if spec.mapper.query_per_layer else 1
        made = _mapper(spec.mapper, inner, tokens, queries, learned=sets * (queries or 0))
        weights, media, tokens = weights + made.parameters, media + made.media, made.tokens
    last = inner * output + (spec.mlp_depth - 1) * output**2
    return AdapterWork(tokens, round(weights + last), media + 2.0 * tokens * last)


def _mapper(
    spec: MapperSpec | MapperResampler, width: int, tokens: int, queries: int | None, learned: int
) -> AdapterWork:
    """A QPMapper on `tokens` with `queries`, of which `learned` vectors are parameters."""
    positions, kept = tokens + (queries or 0), queries or tokens
    # in the last layer only the positions that are kept have queries and a feed-forward
    whole, last = max(spec.layers - 1, 0), min(spec.layers, 1)
    media = whole * positions * (12.0 * width**2 + 4.0 * positions * width)
    media += last * (4.0 * positions * width**2 + kept * (8.0 * width**2 + 4.0 * positions * width))
    return AdapterWork(kept, spec.layers * 6 * width**2 + learned * width, media)
