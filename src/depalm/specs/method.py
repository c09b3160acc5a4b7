"""A method's file: config/methods/{name}.yaml. What each key means: docs/methods.md."""

from typing import Annotated, Any, Literal, Self

from annotated_types import MinLen
from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from depalm.specs.base import (
    Fraction,
    Natural,
    Number,
    Positive,
    Probability,
    Rate,
    Registered,
    Spec,
    Version,
    fault,
)
from depalm.specs.train import TrainSpec

Activation = Literal["gelu", "relu", "silu", "tanh", "identity"]
Positions = Literal["none", "cls", "learned", "rotary"]
Norm = Literal["none", "rms", "layer"]
Factor = Annotated[int, Field(ge=2, description="patches that become one")]
Share = Annotated[Number, Field(gt=0, le=1)]


class LayersSpec(Spec):
    """Layers of a model: `count`, `stride` apart, up to `end`; or those `from` ... `to`."""

    count: Positive | None = Field(None, description="how many (1)")
    stride: Positive = Field(1, description="steps between them")
    end: int | None = Field(None, description="the last one (-1: that of the model)")
    start: int | None = Field(
        None, alias="from", description="the first one, instead of count and end"
    )
    to: int | None = Field(None, description="the last one, included (-1), beside from")

    @model_validator(mode="after")
    def _check_form(self) -> Self:
        if self.start is None and self.to is not None:
            raise fault("to stands beside from; with count the last one is end")
        if self.start is not None and (self.count is not None or self.end is not None):
            raise fault("give either count and end, or from and to")
        return self


class GroupResampler(Spec):
    """Each group of `factor` patches becomes one."""

    type: Literal["max", "linear", "random_patch"]
    factor: Factor = 4
    cls: Literal["keep", "drop", "duplicate"] = Field("keep", description="what becomes of CLS")


class AverageResampler(GroupResampler):
    """The mean of each group."""

    type: Literal["avg"]  # type: ignore[assignment]
    fidelity: Literal["corrected", "released"] = Field(
        "corrected", description="as the paper means it, or as released"
    )


class ConvolutionResampler(Spec):
    """An overlapping convolution."""

    type: Literal["conv"]
    factor: Factor = 4
    cls: Literal["keep", "drop"] = Field("keep", description="what becomes of CLS")


class MapperOptions(Spec):
    """Layers of a QPMapper."""

    heads: Positive = Field(8, description="attention heads")
    dropout: Probability = 0.1
    activation: Activation = "gelu"
    norm_first: bool = Field(False, description="norms in front of the branches")
    positions: Positions = Field("none", description="what tells tokens apart")


class MapperResampler(MapperOptions):
    """A QPMapper with one query over each group."""

    type: Literal["qpmapper"]
    layers: Natural = Field(4, description="encoder layers")
    factor: Factor = 4
    cls: Literal["keep", "drop", "duplicate"] = Field("keep", description="what becomes of CLS")


class SubsetResampler(Spec):
    """A random subset of the patches."""

    type: Literal["random_subset"]
    cls: Literal["keep", "drop"] = Field("keep", description="what becomes of CLS")
    mean: Number = Field(0.25, description="mean fraction of the patches")
    std: Number = Field(0.2, ge=0)
    smallest: Share = 0.0625
    largest: Share = 0.5
    largest_probability: Fraction = 0.1


RESAMPLERS: dict[str, str] = {
    "avg": "avg",
    "conv": "conv",
    "qpmapper": "qpmapper",
    "random_subset": "random_subset",
} | dict.fromkeys(("max", "linear", "random_patch"), "group")


class OtherResampler(Spec):
    """A resampler that somebody has registered; its class checks the options."""

    model_config = ConfigDict(extra="allow")

    type: Annotated[str, Registered("resampler", besides=tuple(RESAMPLERS))]


def _resampler(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return RESAMPLERS.get(kind, "other") if isinstance(kind, str) else "other"


ResamplerSpec = Annotated[
    Annotated[GroupResampler, Tag("group")]
    | Annotated[AverageResampler, Tag("avg")]
    | Annotated[ConvolutionResampler, Tag("conv")]
    | Annotated[MapperResampler, Tag("qpmapper")]
    | Annotated[SubsetResampler, Tag("random_subset")]
    | Annotated[OtherResampler, Tag("other")],
    Discriminator(_resampler),
]


class MapperSpec(MapperOptions):
    """The QPMapper between tokens and LLM."""

    layers: Natural = Field(description="encoder layers")
    queries: Positive | None = Field(32, description="learned queries; null keeps all tokens")
    query_per_layer: bool = Field(False, description="queries of its own for each source layer")


class ConnectorSpec(Spec):
    """From tokens of the backbone to the width of the LLM."""

    shared: bool = Field(True, description="one connector for all source layers")
    adapter_dim: Positive | Literal["llm"] | None = Field(
        None, description="width inside; llm is the LLM's, null the backbone's without a Linear"
    )
    resampler: ResamplerSpec | None = None
    mapper: MapperSpec | None = None
    norm: Norm | None = Field(None, description="rms with a resampler, else none")
    norm_at: Literal["output", "resampler"] = Field(
        "output", description="in front of the last Linear, or right behind the resampler"
    )
    mlp_depth: Positive = Field(1, description="Linear layers at the end")
    activation: Activation = Field("gelu", description="between them")

    @model_validator(mode="after")
    def _check_norm(self) -> Self:
        if self.norm_at == "resampler" and self.resampler is None:
            raise fault("there is no resampler for the norm to stand behind", at="norm_at")
        return self


class NoInjection(Spec):
    """No visual token."""

    at: Literal["none"]


class L0Injection(Spec):
    """Tokens in front of the sequence, from the first layer on."""

    at: Literal["l0"]
    keep: bool = Field(True, description="leave the tokens in the sequence to the end")
    token_norm: Norm = Field("none", description="norm of the tokens at each target")
    scale: bool = Field(False, description="learned scale at each target")
    bias: bool = Field(False, description="learned bias at each target")
    gate: bool = Field(False, description="tanh gate that starts at 0")


class InnerInjection(L0Injection):
    """Tokens in front of the sequence at inner layers."""

    at: Literal["inner"]  # type: ignore[assignment]
    keep: bool = Field(False, description="leave the tokens in the sequence behind the last target")
    targets: LayersSpec = Field(LayersSpec(), description="LLM layers that receive tokens")


class CrossAttentionInjection(Spec):
    """Tokens that LLM layers read by cross-attention."""

    at: Literal["cross_attention"]
    targets: LayersSpec = Field(LayersSpec(), description="LLM layers that read tokens")
    heads: Positive = Field(8, description="attention heads")
    gate: bool = Field(True, description="tanh gate that starts at 0")
    width: Positive | None = Field(None, description="width inside (adapter_dim)")


INJECTIONS = ("none", "l0", "inner", "cross_attention")


class OtherInjection(Spec):
    """A place that somebody has registered; its class checks the options."""

    model_config = ConfigDict(extra="allow")

    at: Annotated[str, Registered("injector", besides=INJECTIONS)]
    targets: LayersSpec = Field(LayersSpec(), description="LLM layers that it acts on")


def _injection(value: Any) -> str:
    place = value.get("at") if isinstance(value, dict) else getattr(value, "at", None)
    return place if place in INJECTIONS else "other"


InjectSpec = Annotated[
    Annotated[NoInjection, Tag("none")]
    | Annotated[L0Injection, Tag("l0")]
    | Annotated[InnerInjection, Tag("inner")]
    | Annotated[CrossAttentionInjection, Tag("cross_attention")]
    | Annotated[OtherInjection, Tag("other")],
    Discriminator(_injection),
]


class LoRASpec(Spec):
    """LoRA: changes of low rank of a frozen model's Linears."""

    rank: Positive = Field(8, description="of what is added to a weight")
    alpha: Rate = Field(16.0, description="what is added is scaled by alpha / rank")
    targets: Annotated[list[str], MinLen(1)] = Field(
        ["q_proj", "v_proj"], description="the last parts of the names of Linears"
    )


class TuningSpec(Spec):
    """Tuning of a frozen model."""

    linears: bool = Field(False, description="a scale and a bias behind every Linear")
    norms: bool = Field(False, description="scale and bias of every norm")
    lora: LoRASpec | None = Field(None, description="changes of low rank")

    @property
    def any(self) -> bool:
        return self.linears or self.norms or self.lora is not None


class FinetuneSpec(Spec):
    """Tuning of the frozen models beside the adapter."""

    llm: TuningSpec = TuningSpec()
    backbone: TuningSpec = Field(TuningSpec(), description="with `features: online` only")


class MethodSpec(Spec):
    """An adapter: which tokens it reads, and how they come into the LLM."""

    version: Version
    source: LayersSpec = Field(LayersSpec(), description="backbone layers that are read")
    tokens: Literal["all", "cls", "patches"] = Field("all", description="tokens that are kept")
    merge: Literal["mean", "concat"] | None = Field(
        None, description="merge the source layers into one"
    )
    connector: ConnectorSpec = ConnectorSpec()
    inject: InjectSpec
    prompt_tokens: Natural = Field(0, description="learned tokens in front of the text")
    prompt_at: Literal["embedding", "every_layer"] = Field(
        "embedding", description="every_layer: each LLM layer has its own"
    )
    finetune: FinetuneSpec = Field(FinetuneSpec(), description="tuning of the frozen models")

    @model_validator(mode="after")
    def _check_blind(self) -> Self:
        useless = {"source", "tokens", "merge", "connector"} & self.model_fields_set
        if isinstance(self.inject, NoInjection) and useless:
            keys = ", ".join(sorted(useless))
            raise fault(f"{keys}: does not apply to a method that injects nothing")
        return self


class MethodFile(MethodSpec):
    """A method's file: an adapter, its name in the tables, and how it is trained."""

    label: str = Field(description="name in the tables")
    train: TrainSpec = Field(TrainSpec(), description="over the dataset's and the settings' train")
