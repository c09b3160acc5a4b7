"""LLaMA and the families whose modules are called as its own."""

from torch import Tensor, nn
from transformers import Cache

from depalm.llms.base import LLM


class LlamaLLM(LLM):
    """LLaMA, Llama 2, Vicuna, Alpaca, SmolLM2 (grouped-query attention too): rotary positions, and
    a sliding window where the configuration has one.
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
        # by position, for the cache's keyword differs between releases of transformers
        return self.layers[index](
            hidden, mask, positions, cache, use_cache=cache is not None, position_embeddings=rotary
        )

    def window(self, index: int) -> int | None:
        config = self.model.config
        kinds = getattr(config, "layer_types", None)
        if kinds is not None and kinds[index] != "sliding_attention":
            return None
        size = getattr(config, "sliding_window", None)
        return None if size is None else int(size)

    def head(self, hidden: Tensor) -> Tensor:
        return self.model.lm_head(self.model.model.norm(hidden))
