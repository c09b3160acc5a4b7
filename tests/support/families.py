"""A tiny random LLM of every family that the registry names, and of some that it does not."""

import inspect
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from depalm.llms.base import LLM
from depalm.llms.decoder import DecoderLLM
from depalm.llms.registry import FAMILIES
from tests.support.tiny import LLM_SIZES, Tokenizer

SIZES = {
    **LLM_SIZES,
    "head_dim": 8,
    "max_position_embeddings": 64,
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
        "final_logit_softcapping": 8.0,
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
REGISTERED = [name for name in FAMILIES if name != "opt"]

UNLISTED = ["olmoe", "gpt_bigcode", "phimoe", "olmo_hybrid", "qwen3_next", "lfm2"]


def random_llm(name: str, window: int = 4) -> LLM:
    """With attention to `window` positions in the layers that have a window: 4 are fewer than the
    tests' texts have, so that what stands in front reaches the end by way of many layers alone.
    """
    torch.manual_seed(0)
    plain = AutoConfig.for_model(name)
    known = {*inspect.signature(type(plain).__init__).parameters, *plain.to_dict()}
    known |= plain.attribute_map.keys()
    given = {**SIZES, "sliding_window": window}
    sizes = {key: value for key, value in given.items() if key in known}
    config = AutoConfig.for_model(name, **sizes, **REAL.get(name, {}))
    model = AutoModelForCausalLM.from_config(config)
    return FAMILIES.get(name, DecoderLLM)(model, Tokenizer())
