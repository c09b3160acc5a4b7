"""Tiny random LLMs in memory, of every family, for tests of what happens around them."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from depalm.llms import LLM, LlamaLLM, OptLLM

LAYERS, WIDTH, VOCABULARY = 4, 32, 41
FAMILIES = ["llama", "opt", "opt-projected"]


class Tokenizer:
    """One token per character; just what generation and training ask of a tokenizer."""

    bos_token_id = 1
    eos_token_id = 2
    alphabet = "abcdefghijklmnopqrstuvwxyz ?.:\n0123456"

    def __call__(self, texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
        assert not add_special_tokens
        return {"input_ids": [[3 + self.alphabet.index(c) for c in text] for text in texts]}

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(self.alphabet[i - 3] for i in ids if i >= 3)


def tiny_llm(family: str, seed: int = 0) -> LLM:
    """LLaMA with grouped-query attention, OPT, or OPT with projections around its layers (as
    OPT-350m).
    """
    torch.manual_seed(seed)
    if family == "llama":
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=48,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.3,
        )
        return LlamaLLM(LlamaForCausalLM(config), Tokenizer())  # type: ignore[arg-type]
    projected = family == "opt-projected"
    opt = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        ffn_dim=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        word_embed_proj_dim=16 if projected else WIDTH,
        do_layer_norm_before=not projected,
        init_std=0.3,
        tie_word_embeddings=False,
    )
    return OptLLM(OPTForCausalLM(opt), Tokenizer())  # type: ignore[arg-type]
