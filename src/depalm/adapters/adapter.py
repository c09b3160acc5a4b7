"""The adapter of a method: the only thing that is trained, saved and loaded."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from depalm.adapters.connector import Connector
from depalm.adapters.errors import AdapterError
from depalm.adapters.layout import Sources, inner_width, layout
from depalm.adapters.registry import INJECTORS
from depalm.adapters.tuning import Tuning
from depalm.llms.injection import Injection
from depalm.precision import autocast, autocasting
from depalm.specs import MethodSpec
from depalm.specs.backbone import BackboneShape
from depalm.specs.llm import LLMShape


class Adapter(nn.Module):
    """A method (config/methods/*.yaml) between a backbone and an LLM of the given shapes.

    Everything in it is float32 and trainable. `layout` says which layers of the backbone it reads
    and on which of the LLM it acts. What `finetune` tunes of the "llm" or the "backbone" follows
    the architecture of that one of `models` (which may lie on the meta device); it is left out
    without, as where a configuration is checked before any model is there.

    Raises AdapterError or ConnectorError for a method that does not fit the shapes.
    """

    def __init__(
        self,
        method: MethodSpec,
        backbone: BackboneShape,
        llm: LLMShape,
        models: Mapping[str, nn.Module] | None = None,
    ):
        super().__init__()
        self.layout = layout(method, backbone, llm)
        sources, connector = self.layout.sources, method.connector
        inner = llm.width if sources is None else inner_width(connector, sources, llm)
        place = INJECTORS[method.inject.at]
        self.injector = place(method.inject, self.layout.target_layers, llm, inner)
        if self.injector.reader is not None:
            self.cross_attention = self.injector.reader
        self.connectors = nn.ModuleList()
        if sources is not None:
            per_layer = connector.mapper is not None and connector.mapper.query_per_layer
            self.connectors.extend(
                Connector(
                    connector,
                    sources.width,
                    inner,
                    self.injector.width,
                    sources.tokens,
                    sources.grid,
                    sources.count if per_layer and connector.shared else 1,
                )
                for _ in range(1 if connector.shared else sources.count)
            )
        self.scales = nn.ModuleList(self.injector.scales)
        count = method.prompt_tokens
        self.prompt = nn.Parameter(torch.randn(count, llm.width)) if count else None
        self.layer_prompts = None
        if count and method.prompt_at == "every_layer":
            self.layer_prompts = nn.Parameter(torch.randn(llm.layers - 1, count, llm.width))
        tuned = {"llm": method.finetune.llm, "backbone": method.finetune.backbone}
        self.finetune = {part: kinds for part, kinds in tuned.items() if kinds.any}
        self.tuning = nn.ModuleDict(
            {
                part: Tuning(model, self.finetune[part])
                for part, model in (models or {}).items()
                if part in self.finetune
            }
        )

    @property
    def source_layers(self) -> list[int]:
        """The backbone layers that it reads."""
        return self.layout.source_layers

    @property
    def target_layers(self) -> list[int]:
        """The LLM layers that it acts on."""
        return self.layout.target_layers

    @property
    def cls_only(self) -> bool:
        """Whether the summary tokens suffice, of which the cache holds those of every layer."""
        return self.layout.cls_only

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

    def forward(self, features: Tensor | None, compute: str = "float32") -> Injection:
        """Features of the source layers [B, L, T, D] (T = 1: CLS only) -> what the LLM receives,
        computed in `compute` (see `depalm.precision.autocast`).

        A method that reads no layer takes None. Each source goes through its connector once,
        however many targets read it.
        """
        device = next(self.parameters()).device
        with autocast(compute, device):
            injection = self.injector.inject(self._connected(features))
        reader = injection.reader and autocasting(injection.reader, compute, device)
        return replace(
            injection,
            reader=reader,
            prompt=self.prompt,
            layer_prompts=dict(enumerate(self.layer_prompts, start=1))
            if self.layer_prompts is not None
            else {},
        )

    def _connected(self, features: Tensor | None) -> list[Tensor]:
        """[B, L, T, D] -> the tokens [B, K, D_out] of each source."""
        if self.layout.sources is None:
            return []
        if features is None:
            raise AdapterError("this method reads backbone features, but was given none")
        return [
            self.connectors[i % len(self.connectors)](tokens, i)
            for i, tokens in enumerate(chosen(self.layout.sources, features.float()))
        ]


def chosen(sources: Sources, features: Tensor) -> list[Tensor]:
    """Features of the layers [B, L, T, D] -> the tokens of each source [B, T', D']."""
    kept = {"all": slice(None), "patches": slice(1, None), "cls": slice(1)}[sources.kept]
    tokens = features[:, :, kept]
    if sources.merge == "mean":
        return [tokens.mean(dim=1)]
    if sources.merge == "concat":
        return [tokens.transpose(1, 2).flatten(2)]  # [B, T, L D]
    return list(tokens.unbind(dim=1))
