"""Whether the layer loop of `depalm.llms.injection` computes what the library's own model does:
tried whenever an LLM is loaded, on a slice of it.
"""

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.initialization import no_init_weights

from depalm.llms.base import LLM, LLMError
from depalm.llms.decoder import DecoderLLM
from depalm.llms.injection import DecodingState, Injection, hidden_states
from depalm.llms.registry import FAMILIES

LAYERS, ROWS = 2, 64  # of the slice, at least; rows of its vocabulary
SAMPLES, LENGTH, PROMPT = 2, 12, 5  # texts, tokens of each, and how many of them come at once
# texts behind each prompt, tokens of each; padding in front of the first prompt
BEAMS, BRANCHED, PADDING = 2, 3, 2
WINDOW = 4  # in place of a sliding window, which no short text would reach
TOLERANCE = 1e-3  # of the norm of the logits; float32 leaves some 1e-6
ROUNDING = 5e-2  # the same in half precision, in which another order of sums rounds otherwise
KINDS = "layer_types"  # of each layer, where they differ


def prove(llm: LLM) -> None:
    """Raise LLMError, with the numbers, unless logits [B, S, V] of the loop equal those of the
    library, for whole texts, for texts that go on token by token with the KV cache, and for beams
    behind prompts with padding: in float32, and in the precision of `llm`. The library computes
    attention by itself (`eager`), for the kernels leave out what they do not know.

    The slice has the first layers, so many that each kind is there, on the CPU, and a part of the
    vocabulary: of the demo's LLM it takes a tenth of a second, of one of 7B four.
    """
    kind = llm.model.config.model_type
    try:
        part = _slice(llm)
        tried = [
            one
            for dtype in dict.fromkeys((torch.float32, llm.dtype))
            for one in _computed(part, dtype)
        ]
    except Exception as error:  # of the library's code, which may raise anything
        raise LLMError(
            f"the layers of {kind!r} cannot be run one by one as depalm does: "
            f"{type(error).__name__}: {error}"
        ) from error
    for what, logits, expected in tried:
        allowed = TOLERANCE if logits.dtype == torch.float32 else ROUNDING
        apart = float((logits - expected).float().norm() / expected.float().norm())
        if not apart <= allowed:
            raise LLMError(
                f"this version of transformers computes {kind!r} otherwise than depalm: for "
                f"{what} in {str(logits.dtype)[6:]}, logits are {apart:.1e} of their norm apart, "
                f"where {allowed:.0e} is allowed. "
                "The model is not used, for its results would be silently wrong"
            )


@torch.no_grad()
def _computed(part: LLM, dtype: torch.dtype) -> list[tuple[str, Tensor, Tensor]]:
    """What is computed in `dtype`, the loop's logits, and the library's."""
    model = part.model.to(dtype)
    rows, attention = model.config.vocab_size, model.config._attn_implementation
    generator = torch.Generator().manual_seed(0)
    token_ids = torch.randint(0, rows, (SAMPLES, LENGTH), generator=generator)
    whole = part.head(hidden_states(part, token_ids, Injection()))
    cached = torch.cat(list(_cached(part, token_ids)), dim=1)
    branched = _branched(part, token_ids)
    model.set_attn_implementation("eager")
    expected = model(token_ids, use_cache=False).logits
    alone = [
        model(text[None], use_cache=False).logits[0, -1]
        for row, start in zip(range(SAMPLES), (PADDING, *[0] * (SAMPLES - 1)), strict=True)
        for text in _beams_of(token_ids, row, start)
    ]
    model.set_attn_implementation(attention)
    return [
        ("whole texts", whole, expected),
        ("texts token by token", cached, expected),
        ("beams behind padding", branched, torch.stack(alone).view_as(branched)),
    ]


def _cached(part: LLM, token_ids: Tensor) -> Any:
    state = DecodingState()
    starts = [0, *range(PROMPT, LENGTH)]
    for start, end in zip(starts, [*starts[1:], LENGTH], strict=True):
        yield part.head(hidden_states(part, token_ids[:, start:end], Injection(), state=state))


def _beams_of(token_ids: Tensor, row: int, start: int) -> list[Tensor]:
    """The texts behind the prompt of a row: its own, and those of the rows behind it."""
    prompt, others = token_ids[row, start:PROMPT], [(row + i) % SAMPLES for i in range(BEAMS)]
    end = PROMPT + BRANCHED
    return [torch.cat((prompt, token_ids[other, PROMPT:end])) for other in others]


def _branched(part: LLM, token_ids: Tensor) -> Tensor:
    """-> [B, BEAMS, V]: logits behind the last token of each beam."""
    state, nothing = DecodingState(), Injection()
    valid = torch.ones(SAMPLES, PROMPT, dtype=torch.bool)
    valid[0, :PADDING] = False
    hidden = hidden_states(part, token_ids[:, :PROMPT], nothing, valid, state)
    texts = [torch.stack(_beams_of(token_ids, row, 0)) for row in range(SAMPLES)]
    beams = torch.stack(texts)[:, :, PROMPT:]  # [B, BEAMS, S]
    if part.recurs:
        state.select(torch.arange(SAMPLES).repeat_interleave(BEAMS))
        for tokens in beams.flatten(0, 1).split(1, dim=1):
            hidden = hidden_states(part, tokens, nothing, None, state)
    else:
        parents = torch.arange(BEAMS).expand(SAMPLES, -1)
        for tokens in beams.unbind(dim=2):
            state.branch(parents)
            hidden = hidden_states(part, tokens, nothing, None, state)
    return part.head(hidden.reshape(SAMPLES, BEAMS, -1))


def prove_family(config: Any) -> None:
    """The same for random weights of a model of this configuration. Raises LLMError."""
    try:
        model = AutoModelForCausalLM.from_config(_smaller(config, ROWS), dtype=torch.float32).eval()
    except Exception as error:  # of the library's code, which may raise anything
        raise LLMError(f"transformers builds no causal language model of it: {error}") from error
    tokenizer: Any = None  # none is needed to compute
    prove(FAMILIES.get(config.model_type, DecoderLLM)(model, tokenizer))


def _slice(llm: LLM) -> LLM:
    """A model of the first layers, and the first rows of the vocabulary, of `llm`."""
    config = _smaller(llm.model.config, len(llm.model.get_input_embeddings().weight))
    with no_init_weights():
        model = type(llm.model)._from_config(config, dtype=torch.float32).eval()
    whole = llm.model.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, target in model.state_dict(keep_vars=True).items():
            source = whole[name]
            target.copy_(source[tuple(slice(size) for size in target.shape)])
    return type(llm)(model, llm.tokenizer)


def _smaller(config: Any, rows: int) -> Any:
    """A configuration of the first layers, so many that each kind is there, and of few tokens."""
    smaller = copy.deepcopy(config)
    kinds = getattr(smaller, KINDS, None)
    count = min(LAYERS, smaller.num_hidden_layers)
    if kinds is not None:
        count = max(count, *(kinds.index(kind) + 1 for kind in kinds))
        setattr(smaller, KINDS, kinds[:count])
    smaller.num_hidden_layers = count
    smaller.vocab_size = min(ROWS, rows)
    smaller.pad_token_id = smaller.bos_token_id = smaller.eos_token_id = None
    if getattr(smaller, "sliding_window", None) is not None:
        smaller.sliding_window = WINDOW
    return smaller
