"""Every family on a tiny random model: the loop is the library's forward, or is refused."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from depalm.llms.base import LLM, LLMError
from depalm.llms.decoder import DecoderLLM
from depalm.llms.injection import DecodingState, Injection, hidden_states
from depalm.llms.proof import prove
from depalm.llms.registry import FAMILIES
from tests.support.tiny import Tokenizer, tiny_llm

WIDTH, LENGTH, VISUAL = 32, 9, 5
SIZES = {
    "vocab_size": 41,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "sliding_window": 4,  # shorter than the texts
    "initializer_range": 0.3,
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
# settings that are neutral by default, at values that are not
REAL: dict[str, dict[str, Any]] = {
    "granite": {
        "embedding_multiplier": 2.0,
        "logits_scaling": 3.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.2,
    },
    "cohere": {"logit_scale": 0.5},
    "gemma2": {
        "attn_logit_softcapping": 0.5,
        "final_logit_softcapping": 0.5,
        "query_pre_attn_scalar": 4,
    },
    "llama": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    "qwen3": {"tie_word_embeddings": True},
    "phi3": {  # as Phi-4-mini
        "rope_parameters": {
            **{"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75},
            **{"short_factor": [1.0, 1.5, 2.0], "long_factor": [2.0, 3.0, 4.0]},
            "original_max_position_embeddings": 64,
        }
    },
    "lfm2": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "qwen3_5_text": {"linear_num_key_heads": 2, "linear_num_value_heads": 4},
    "qwen3_next": {
        **{"num_experts": 4, "num_experts_per_tok": 2},
        **{"linear_num_key_heads": 2, "linear_num_value_heads": 4},
    },
}
NAMES = [name for name in FAMILIES if name != "opt"]


def family(name: str) -> LLM:
    torch.manual_seed(0)
    plain = AutoConfig.for_model(name)
    known = {*inspect.signature(type(plain).__init__).parameters, *plain.to_dict()}
    known |= plain.attribute_map.keys()
    sizes = {key: value for key, value in SIZES.items() if key in known}
    config = AutoConfig.for_model(name, **sizes, **REAL.get(name, {}))
    model = AutoModelForCausalLM.from_config(config)
    return FAMILIES.get(name, DecoderLLM)(model, Tokenizer())


UNLISTED = ["olmoe", "gpt_bigcode", "phimoe", "olmo_hybrid", "qwen3_next", "lfm2"]


@pytest.mark.parametrize("name", [*NAMES, *UNLISTED])
def test_a_family_is_proved_and_injected_tokens_are_cached(name: str) -> None:
    llm = family(name)
    prove(llm)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 40, (2, LENGTH), generator=generator)
    visual = torch.randn(2, VISUAL, WIDTH, generator=generator)
    injection = Injection({0: visual, 2: visual.flip(1)}, last=2)
    with torch.no_grad():
        whole = llm.head(hidden_states(llm, ids, injection))
        state = DecodingState()
        parts = [hidden_states(llm, ids[:, :4], injection, state=state)]
        parts += [
            hidden_states(llm, ids[:, i : i + 1], injection, state=state) for i in range(4, LENGTH)
        ]
        cached = llm.head(torch.cat(parts, dim=1))
    assert float((whole - cached).norm() / whole.norm()) < 1e-4


@pytest.mark.parametrize("name", ["bloom", "xglm"])
def test_a_family_that_is_built_otherwise_is_refused(name: str) -> None:
    with pytest.raises(LLMError, match=rf"{name}'"):
        prove(family(name))


class Headless(DecoderLLM):
    """Forgets the norm before the head."""

    def head(self, hidden: Tensor) -> Tensor:
        return self.model.lm_head(hidden)


class Forgetful(DecoderLLM):
    """Takes layers that remember a state for attention."""

    def recurrent(self, index: int) -> bool:  # noqa: ARG002
        return False


class Blind(DecoderLLM):
    """Forgets the sliding window."""

    def window(self, index: int) -> int | None:  # noqa: ARG002
        return None


@pytest.mark.parametrize(("wrong", "name"), [(Headless, "llama"), (Blind, "mistral")])
def test_a_model_that_is_called_wrongly_is_refused_with_the_numbers(
    wrong: type[LLM], name: str
) -> None:
    model = tiny_llm(name).model
    with pytest.raises(LLMError, match=rf"computes {name!r} otherwise .*\de[+-]\d"):
        prove(wrong(model, Tokenizer()))


def test_a_state_that_is_taken_for_attention_is_refused() -> None:
    with pytest.raises(LLMError, match="'qwen3_5_text' cannot be run one by one"):
        prove(Forgetful(tiny_llm("qwen3_5_text").model, Tokenizer()))


def test_a_slice_of_a_model_in_half_precision_is_proved_too() -> None:
    llm = tiny_llm("llama")
    llm.model.bfloat16()
    prove(llm)
    assert llm.dtype == torch.bfloat16
