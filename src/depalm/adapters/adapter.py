"""The adapter of a method: the only thing that is trained, saved and loaded."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from depalm.adapters.bias_tuning import Tuning
from depalm.adapters.connector import NORMS, Connector, CrossAttention
from depalm.adapters.selection import AdapterError, Selection, select_layers
from depalm.llms.injection import Injection


class TokenScale(nn.Module):
    """What each target layer does to its tokens [B, K, D]: norm, then a learned scale and bias."""

    def __init__(self, width: int, norm: str, scale: bool, bias: bool, gate: bool):
        super().__init__()
        self.norm = NORMS[norm](width)
        self.scale = nn.Parameter(torch.ones(width)) if scale else None
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.gate = nn.Parameter(torch.zeros(1)) if gate else None

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.norm(tokens)
        if self.scale is not None:
            tokens = tokens * self.scale
        if self.bias is not None:
            tokens = tokens + self.bias
        return tokens if self.gate is None else tokens * torch.tanh(self.gate)


class Adapter(nn.Module):
    """A method (config/methods/*.yaml) between a backbone and an LLM of the given shapes.

    Everything in it is float32 and trainable. `source_layers` are the backbone layers that it
    reads, `target_layers` the LLM layers it acts on. What `finetune` tunes of the "llm" or the
    "backbone" follows the architecture of that one of `models` (which may lie on the meta device);
    it is left out without, as where a configuration is checked before any model is there.

    Raises AdapterError or ConnectorError for a method that does not fit the shapes.
    """

    def __init__(
        self,
        method: Mapping[str, Any],
        backbone_shape: Mapping[str, Any],
        llm_shape: Mapping[str, int],
        models: Mapping[str, nn.Module] | None = None,
    ):
        super().__init__()
        self.inject: Mapping[str, Any] = method["inject"]
        self.selection: Selection | None = None
        self.target_layers: list[int] = []
        width, layers = llm_shape["width"], llm_shape["layers"]
        if self.inject["at"] != "none":
            self.selection = Selection(method, backbone_shape)
            self.target_layers = (
                [0]
                if self.inject["at"] == "l0"
                else select_layers(layers, self.inject.get("targets", {}))
            )
            self._build_connectors(method, self.selection, width)
        count = method.get("prompt_tokens", 0)
        self.prompt = nn.Parameter(torch.randn(count, width)) if count else None
        self.layer_prompts = None
        if count and method.get("prompt_at") == "every_layer":
            self.layer_prompts = nn.Parameter(torch.randn(layers - 1, count, width))
        finetune: Mapping[str, Mapping[str, bool]] = method.get("finetune", {})
        self.finetune = {part: kinds for part, kinds in finetune.items() if any(kinds.values())}
        self.tuning = nn.ModuleDict(
            {
                part: Tuning(model, **self.finetune[part])
                for part, model in (models or {}).items()
                if part in self.finetune
            }
        )
        if not self.trainable_parameters and not self.finetune:
            raise AdapterError("there is nothing to train: no tokens, no prompt and no finetune")

    def _build_connectors(
        self, method: Mapping[str, Any], selection: Selection, llm_width: int
    ) -> None:
        inject, targets = self.inject, len(self.target_layers)
        if selection.count > targets:
            raise AdapterError(
                f"{selection.count} source layers, but {targets} target layers to read them: merge "
                "the sources (mean or concat), or take fewer"
            )
        options = dict(method.get("connector") or {})
        shared = options.pop("shared", True)
        if options.get("adapter_dim") == "llm":
            options["adapter_dim"] = llm_width
        options["mapper"] = _mapper(options.get("mapper"), selection.count if shared else 1)
        _check_tokens(selection, options, inject["at"])
        output: int = llm_width
        if inject["at"] == "cross_attention":
            output = inject.get("width") or options.get("adapter_dim") or selection.width
            cross = {key: inject[key] for key in ("heads", "gate") if key in inject}
            self.cross_attention = CrossAttention(output, llm_width, **cross)
        self.connectors = nn.ModuleList(
            Connector(selection.width, output, selection.tokens, grid=selection.grid, **options)
            for _ in range(1 if shared else selection.count)
        )
        scaling = {
            "norm": inject.get("token_norm", "none"),
            **{key: inject.get(key, False) for key in ("scale", "bias", "gate")},
        }
        self.scales = nn.ModuleList()
        if inject["at"] != "cross_attention" and (
            scaling["norm"] != "none" or any(scaling[key] for key in ("scale", "bias", "gate"))
        ):
            self.scales.extend(TokenScale(llm_width, **scaling) for _ in self.target_layers)

    @property
    def source_layers(self) -> list[int]:
        return [] if self.selection is None else self.selection.layers

    @property
    def cls_only(self) -> bool:
        """Whether the CLS tokens suffice, of which the cache holds those of every layer."""
        return self.selection is not None and self.selection.cls_only

    @property
    def trainable_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    @contextmanager
    def tuned(self, part: str, model: nn.Module) -> Iterator[None]:
        """Let the "llm" or the "backbone" run as this method tunes it, inside the block alone; its
        weights stay as they are.

        Raises AdapterError if the method tunes it but the adapter was built without it.
        """
        if part in self.finetune and part not in self.tuning:
            raise AdapterError(f"this adapter was built without the {part} that its method tunes")
        handles = cast(Tuning, self.tuning[part]).attach(model) if part in self.tuning else []
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def forward(self, features: Tensor | None) -> Injection:
        """Features of the source layers [B, L, T, D] (T = 1: CLS only) -> what the LLM receives.

        A method that reads no layer takes None. Each source goes through its connector once,
        however many targets read it; target i of n reads source (i * sources) // n.
        """
        prompts: dict[int, Tensor] = {}
        if self.layer_prompts is not None:
            prompts = dict(enumerate(self.layer_prompts, start=1))
        if self.selection is None:
            return Injection(prompt=self.prompt, layer_prompts=prompts)
        if features is None:
            raise AdapterError("this method reads backbone features, but was given none")
        sources = [
            self.connectors[i % len(self.connectors)](tokens, i)
            for i, tokens in enumerate(self.selection(features.float()))
        ]
        count = len(self.target_layers)
        read = {t: (i * len(sources)) // count for i, t in enumerate(self.target_layers)}
        if self.inject["at"] == "cross_attention":
            pairs = [self.cross_attention.keys_values(tokens) for tokens in sources]
            return Injection(
                prompt=self.prompt,
                layer_prompts=prompts,
                cross={target: pairs[source] for target, source in read.items()},
                reader=self.cross_attention,
            )
        tokens = {target: sources[source] for target, source in read.items()}
        for scale, target in zip(self.scales, self.target_layers, strict=False):
            tokens[target] = scale(tokens[target])
        last = (
            None if self.inject.get("keep", self.inject["at"] == "l0") else self.target_layers[-1]
        )
        return Injection(tokens, last, self.prompt, prompts)


def _mapper(options: Mapping[str, Any] | None, sources: int) -> dict[str, Any] | None:
    """The options of QPMapper that a method's `mapper` stands for, with `sources` behind it."""
    if options is None:
        return None
    chosen = dict(options)
    if chosen.pop("query_per_layer", False):
        if chosen.get("queries") is None:
            raise AdapterError("query_per_layer asks for queries of each layer, but there are none")
        chosen["query_sets"] = sources
    return chosen


def _check_tokens(selection: Selection, options: Mapping[str, Any], place: str) -> None:
    """Refuse what would mistake one token for another, or leave targets of unequal length."""
    resampler, mapper = options.get("resampler") or {}, options["mapper"] or {}
    positions = mapper.get("positions", "none")
    if selection.kept == "patches" and (resampler or positions == "cls"):
        what = "a resampler" if resampler else "positions: cls"
        raise AdapterError(f"{what} takes the first token for CLS: use tokens: all (and cls: drop)")
    if resampler.get("type") == "random_subset":
        if positions == "learned":
            raise AdapterError("positions: learned needs fixed places, which a random subset lacks")
        if place == "inner" and selection.count > 1:
            raise AdapterError(
                "a random subset has another size for each source, but inner targets must receive "
                "equally many tokens: read one source layer, or merge them"
            )
