"""Whether the layer loop of `depalm.llms.injection` computes what the library's own model does:
tried whenever an LLM is loaded, on a slice of it.
"""

import copy
from typing import Any

import torch
from torch import Tensor
from transformers.initialization import no_init_weights

from depalm.llms.base import LLM, LLMError
from depalm.llms.injection import DecodingState, Injection, hidden_states

LAYERS, ROWS = 2, 64  # of the slice, at least; rows of its vocabulary
SAMPLES, LENGTH, PROMPT = 2, 12, 5  # texts, tokens of each, and how many of them come at once
WINDOW = 4  # in place of a sliding window, which no short text would reach
TOLERANCE = 1e-3  # of the norm of the logits; float32 leaves some 1e-6
KINDS = "layer_types"  # of each layer, where they differ


def prove(llm: LLM) -> None:
    """Raise LLMError, with the numbers, unless logits [B, S, V] of the loop equal those of the
    library, for whole texts, and for texts that go on token by token with the KV cache.

    The slice has the first layers, so many that each kind is there, in float32 on the CPU, and a
    part of the vocabulary: of the demo's LLM it takes a tenth of a second, of one of 7B four.
    """
    part = _slice(llm)
    generator = torch.Generator().manual_seed(0)
    rows = part.model.config.vocab_size
    token_ids = torch.randint(0, rows, (SAMPLES, LENGTH), generator=generator)
    with torch.no_grad():
        expected = part.model(token_ids, use_cache=False).logits
        found = {
            "whole texts": part.head(hidden_states(part, token_ids, Injection())),
            "texts token by token": torch.cat(list(_cached(part, token_ids)), dim=1),
        }
    for what, logits in found.items():
        apart = float((logits - expected).norm() / expected.norm())
        if not apart <= TOLERANCE:
            kind = part.model.config.model_type
            raise LLMError(
                f"this version of transformers computes {kind!r} otherwise than depalm: for "
                f"{what}, logits are {apart:.1e} of their norm apart, where {TOLERANCE:.0e} is "
                "allowed. "
                "The model is not used, for its results would be silently wrong"
            )


def _cached(part: LLM, token_ids: Tensor) -> Any:
    state = DecodingState()
    starts = [0, *range(PROMPT, LENGTH)]
    for start, end in zip(starts, [*starts[1:], LENGTH], strict=True):
        yield part.head(hidden_states(part, token_ids[:, start:end], Injection(), state=state))


def _slice(llm: LLM) -> LLM:
    """A model of the first layers, and the first rows of the vocabulary, of `llm`."""
    config = copy.deepcopy(llm.model.config)
    kinds = getattr(config, KINDS, None)
    count = min(LAYERS, len(llm.layers))
    if kinds is not None:
        count = max(count, *(kinds.index(kind) + 1 for kind in kinds))
        setattr(config, KINDS, kinds[:count])
    config.num_hidden_layers = count
    config.vocab_size = min(ROWS, len(llm.model.get_input_embeddings().weight))
    config.pad_token_id = config.bos_token_id = config.eos_token_id = None
    if getattr(config, "sliding_window", None) is not None:
        config.sliding_window = WINDOW
    with no_init_weights():
        model = type(llm.model)._from_config(config, dtype=torch.float32).eval()
    whole = llm.model.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, target in model.state_dict(keep_vars=True).items():
            source = whole[name]
            target.copy_(source[tuple(slice(size) for size in target.shape)])
    return type(llm)(model, llm.tokenizer)
