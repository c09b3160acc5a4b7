"""Tiny LLMs as folders of the library's format."""

from pathlib import Path
from typing import Any

import sentencepiece
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM

from depalm.files import write_json

TEXTS = ["a red square on the left", "What colour is it?\n\nAnswer:\n", "two dogs run", "ünï ♞"]
SPEC: dict[str, Any] = {"shape": {"layers": 3, "width": 32}}
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}


def llama(directory: Path, shard: str = "5GB") -> LlamaForCausalLM:
    """Weights in shards of at most `shard`, and a tokenizer.model of SentencePiece, as LLaMA's."""
    corpus = directory.parent / "corpus.txt"
    corpus.write_text("\n".join(TEXTS * 50))
    directory.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(directory / "tokenizer"),
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (directory / "tokenizer.vocab").unlink()
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    write_json(directory / "tokenizer_config.json", {**settings, "unk_token": "<unk>"})
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, intermediate_size=48, vocab_size=300, initializer_range=0.3)
    model = LlamaForCausalLM(config)
    model.save_pretrained(directory, max_shard_size=shard)
    return model


def unigram_of_words(vocabulary: dict[str, int], unknown: str) -> models.Unigram:
    """Whole pieces, the longer the better."""
    scores = [(piece, float(len(piece)) ** 2) for piece in vocabulary]
    return models.Unigram(scores, unk_id=vocabulary[unknown], byte_fallback=False)


def save(directory: Path, tokenizer: Tokenizer, settings: dict[str, object]) -> None:
    """A tokenizer as the Hub has it."""
    tokenizer.save(str(directory / "tokenizer.json"))
    write_json(directory / "tokenizer_config.json", settings)
