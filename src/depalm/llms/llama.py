"""LLaMA and the families whose modules are called as its own."""

from functools import cached_property
from inspect import signature

from torch import Tensor, nn
from transformers import Cache

from depalm.llms.base import LLM


class LlamaLLM(LLM):
    """LLaMA, Llama 2, Vicuna, Alpaca, SmolLM2, and families such as Mistral and Qwen: rotary
    positions, and a sliding window where the configuration has one.
    """

    @property
    def layers(self) -> nn.ModuleList:
        return self.model.model.layers

    def embed(self, token_ids: Tensor) -> Tensor:
        return self.model.model.embed_tokens(token_ids)

    def add_positions(self, hidden: Tensor, positions: Tensor) -> Tensor:  # noqa: ARG002
        return hidden

    def rotary(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor] | None:
        cosine, sine = self.model.model.rotary_emb(hidden, position_ids=positions)
        return cosine, sine

    def layer(
        self,
        index: int,
        hidden: Tensor,
        mask: Tensor | None,
        positions: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        cache: Cache | None,
    ) -> Tensor:
        told = {"attention_mask": mask, "position_ids": positions, "position_embeddings": rotary}
        found: Tensor = self.layers[index](
            hidden, **told, **{self.keeps: cache}, use_cache=cache is not None
        )
        return found

    @cached_property
    def keeps(self) -> str:
        """What a layer calls its cache, which differs between releases of transformers."""
        parameters = signature(self.layers[0].forward).parameters
        return next(name for name in ("cache", "past_key_values") if name in parameters)

    def window(self, index: int) -> int | None:
        config = self.model.config
        kinds = getattr(config, "layer_types", None)
        if kinds is not None and kinds[index] != "sliding_attention":
            return None
        size = getattr(config, "sliding_window", None)
        return None if size is None else int(size)

    def head(self, hidden: Tensor) -> Tensor:
        return self.model.lm_head(self.model.model.norm(hidden))


class GraniteLLM(LlamaLLM):
    """Granite: embeddings and logits are scaled."""

    def embed(self, token_ids: Tensor) -> Tensor:
        return super().embed(token_ids) * self.model.config.embedding_multiplier

    def head(self, hidden: Tensor) -> Tensor:
        return super().head(hidden) / self.model.config.logits_scaling
