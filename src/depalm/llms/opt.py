"""OPT."""

from torch import Tensor, nn
from transformers import Cache

from depalm.llms.base import LLM, Rotary


class OptLLM(LLM):
    """OPT of any size: learned positions, added at the embedding (inserted tokens have none)."""

    @property
    def layers(self) -> nn.ModuleList:
        return self.model.model.decoder.layers

    def embed(self, token_ids: Tensor) -> Tensor:
        decoder = self.model.model.decoder
        hidden: Tensor = decoder.embed_tokens(token_ids)
        return hidden if decoder.project_in is None else decoder.project_in(hidden)

    def add_positions(self, hidden: Tensor, positions: Tensor) -> Tensor:
        # the learned positions take either a mask to count, or, as here, the positions themselves
        learned: Tensor = self.model.model.decoder.embed_positions(None, position_ids=positions)
        return hidden + learned

    def rotary(self, hidden: Tensor, positions: Tensor) -> Rotary:  # noqa: ARG002
        return {}

    def layer(
        self,
        index: int,
        hidden: Tensor,
        mask: Tensor | None,
        positions: Tensor,
        rotary: Rotary,  # noqa: ARG002
        cache: Cache | None,
    ) -> Tensor:
        return self.layers[index](
            hidden, mask, cache, position_ids=positions, use_cache=cache is not None
        )

    def head(self, hidden: Tensor) -> Tensor:
        decoder = self.model.model.decoder
        if decoder.final_layer_norm is not None:
            hidden = decoder.final_layer_norm(hidden)
        if decoder.project_out is not None:
            hidden = decoder.project_out(hidden)
        return self.model.lm_head(hidden)
