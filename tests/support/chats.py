"""Tiny models with chat templates in the published forms."""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.llms import SIZES, save, unigram_of_words

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<|start|>", "<|end|>", "<think>", "</think>"]
TURNS = ["[INST]", "[/INST]"]
WORDS = ["system", "user", "assistant", "day", "26", "is", "Ġit", "Ċ", "yes", "Ġ", *TURNS]
IDS = {piece: number for number, piece in enumerate([*SPECIAL, *WORDS])}
CHATML = (  # Qwen2.5: a system's message of its own, no BOS
    "{{ '<|start|>system\\nday<|end|>\\n' }}{% for message in messages %}"
    "{{ '<|start|>' + message['role'] + '\\n' + message['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}"
)


def write(folder: Path, template: str | None, bos: bool = True, eos: str | None = "</s>") -> None:
    """A tiny model whose tokenizer adds BOS and EOS by itself where it is not told not to."""
    config = LlamaConfig(**SIZES, intermediate_size=48, vocab_size=len(IDS))
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = Tokenizer(unigram_of_words(IDS, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": eos}
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    settings |= {"bos_token": "<s>"} if bos else {}
    settings |= {"chat_template": template} if template is not None else {}
    save(folder, tokenizer, {**settings, "add_bos_token": bos, "add_eos_token": True})
