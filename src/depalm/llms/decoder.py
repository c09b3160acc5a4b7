"""Decoders as transformers builds most of them: LLaMA and what is like it."""

from functools import cached_property
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from depalm.llms.base import LLM, LLMError, Rotary


class DecoderLLM(LLM):
    """A model with an embedding, a list of layers, a norm and an output embedding, found by what
    transformers calls them. Positions are rotary, for all layers or for each kind of them, or
    learned; layers may have a sliding window, or linear attention. Of scales it knows those of
    Granite, Cohere and Gemma.

    That this is all that the model does is not known here: it is tried when a model is loaded
    (`depalm.llms.proof`). Raises LLMError, when it is made, for a model of other parts.
    """

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        super().__init__(model, *args, **kwargs)
        body, count = dict(self.body.named_children()), model.config.num_hidden_layers
        stacks = [
            name
            for name, child in body.items()
            if isinstance(child, nn.ModuleList) and len(child) == count
        ]
        norms = [name for name in body if "norm" in name or name.startswith("ln_")]
        if len(stacks) != 1 or not norms or model.get_output_embeddings() is None:
            raise LLMError(
                f"a {model.config.model_type!r} model is not built as most are, with one list of "
                f"{count} layers, a norm and an output embedding: its parts are {[*body]}. It "
                "needs a class of its own: docs/extend/llm.md#family"
            )
        self.stack, self.norm = stacks[0], norms[-1]

    @property
    def layers(self) -> nn.ModuleList:
        layers: nn.ModuleList = getattr(self.body, self.stack)
        return layers

    def embed(self, token_ids: Tensor) -> Tensor:
        embedded: Tensor = self.model.get_input_embeddings()(token_ids)
        scale = self._setting("embedding_multiplier")
        return embedded if scale is None else embedded * scale

    def add_positions(self, hidden: Tensor, positions: Tensor) -> Tensor:
        learned = getattr(self.body, "wpe", None)
        return hidden if learned is None else hidden + learned(positions)

    def rotary(self, hidden: Tensor, positions: Tensor) -> Rotary:
        rotary = getattr(self.body, "rotary_emb", None)
        if rotary is None:
            return {}
        if self.rotary_by_kind:
            return {kind: rotary(hidden, positions, kind) for kind in set(self.kinds)}
        return dict.fromkeys(self.kinds, rotary(hidden, position_ids=positions))

    def layer(
        self,
        index: int,
        hidden: Tensor,
        mask: Tensor | None,
        positions: Tensor,
        rotary: Rotary,
        cache: Cache | None,
    ) -> Tensor:
        told: dict[str, Any] = {
            "attention_mask": mask,
            "position_ids": positions,
            "use_cache": cache is not None,
        }
        if rotary:
            told["position_embeddings"] = rotary[self.kinds[index]]
        found = self.layers[index](hidden, **told, **{self.keeps: cache})
        return found if isinstance(found, Tensor) else found[0]

    @cached_property
    def kinds(self) -> list[str | None]:
        """The kind of each layer, where a model has several."""
        return list(getattr(self.model.config, "layer_types", None) or [None] * len(self.layers))

    @cached_property
    def rotary_by_kind(self) -> bool:
        rotary: Any = self.body.rotary_emb
        return "layer_type" in signature(rotary.forward).parameters

    @cached_property
    def keeps(self) -> str:
        """What a layer calls its cache, which differs between models and releases."""
        taken = signature(self.layers[0].forward).parameters
        return next(name for name in ("cache", "past_key_values", "layer_past") if name in taken)

    def window(self, index: int) -> int | None:
        if self.kinds[index] not in (None, "sliding_attention"):
            return None
        size = getattr(self.model.config, "sliding_window", None)
        return None if size is None else int(size)

    def recurrent(self, index: int) -> bool:
        kind = self.kinds[index]
        return kind == "linear_attention" or not (kind or "attention").endswith("attention")

    def head(self, hidden: Tensor) -> Tensor:
        logits = self.model.get_output_embeddings()(getattr(self.body, self.norm)(hidden))
        if (factor := self._setting("logit_scale")) is not None:
            logits = logits * factor
        if (divisor := self._setting("logits_scaling")) is not None:
            logits = logits / divisor
        if (cap := self._setting("final_logit_softcapping")) is not None:
            logits = torch.tanh(logits / cap) * cap
        return logits

    def _setting(self, name: str) -> float | None:
        """A number of the model's configuration, where it has one."""
        found: float | None = getattr(self.model.config, name, None)
        return found
