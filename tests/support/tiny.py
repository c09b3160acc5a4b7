"""Tiny random LLMs in memory, of every family, and the methods of config/methods in their size."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
)

from depalm.adapters.adapter import Adapter
from depalm.config.schema import load_yaml
from depalm.files import read_checked, sha256_file, write_checked
from depalm.llms.base import LLM
from depalm.llms.chat import Chat
from depalm.llms.decoder import DecoderLLM
from depalm.llms.opt import OptLLM
from depalm.specs import MethodSpec
from depalm.specs.backbone import BackboneShape
from depalm.specs.llm import LLMShape

LAYERS, WIDTH, VOCABULARY = 4, 32, 41
FAMILIES = ["llama", "opt", "opt-projected", "mistral", "llama-chat", "qwen3_5_text"]
SEVERAL = FAMILIES[:-1]  # those that take several texts in a row
WINDOW = 5  # of mistral's attention, in positions: shorter than what stands in the tests
BACKBONE, LLM_SHAPE = {"layers": 2, "tokens": 5, "width": 8}, {"layers": LAYERS, "width": WIDTH}


LLM_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


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
    """LLaMA with grouped-query attention, also in chats; Mistral with its sliding window; Qwen 3.5
    with linear attention in three layers of four; OPT, or OPT with projections around its layers
    (as OPT-350m).
    """
    torch.manual_seed(seed)
    if family == "qwen3_5_text":
        hybrid = Qwen3_5TextConfig(
            **LLM_SIZES,
            head_dim=16,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            initializer_range=0.15,
        )
        return DecoderLLM(Qwen3_5ForCausalLM(hybrid), Tokenizer())
    if family in ("llama", "mistral", "llama-chat"):
        windowed = family == "mistral"
        config = (MistralConfig if windowed else LlamaConfig)(
            **LLM_SIZES,
            initializer_range=0.3,
            **({"sliding_window": WINDOW} if windowed else {}),
        )
        model = (MistralForCausalLM if windowed else LlamaForCausalLM)(config)
        chat = Chat(front=[1, 9, 4], behind="?\n", end=3) if family == "llama-chat" else None
        return DecoderLLM(model, Tokenizer(), chat=chat)
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
    return OptLLM(OPTForCausalLM(opt), Tokenizer())


def tiny(value: Any) -> Any:
    """A method, or a part of it, with numbers that fit BACKBONE and LLM_SHAPE."""
    if isinstance(value, dict):
        return {
            key: SIZES[key](part) if isinstance(part, int) and key in SIZES else tiny(part)
            for key, part in value.items()
        }
    return value


def method_spec(method: Mapping[str, Any]) -> MethodSpec:
    """The spec of a method's file, as a run has it."""
    given = {key: method[key] for key in method if key not in ("label", "train")}
    return MethodSpec.model_validate({"version": 1, **given})


def new_adapter(
    method: Mapping[str, Any],
    backbone: Mapping[str, Any] = BACKBONE,
    llm: Mapping[str, int] = LLM_SHAPE,
    models: Mapping[str, nn.Module] | None = None,
) -> Adapter:
    """The adapter of the content of YAML files."""
    shapes = BackboneShape.model_validate(backbone), LLMShape.model_validate(llm)
    return Adapter(method_spec(method), *shapes, models)


def random_adapter(method: dict[str, Any], seed: int = 0, **models: Any) -> Adapter:
    """An adapter in which no parameter is zero, as in a trained one; in evaluation mode."""
    torch.manual_seed(seed)
    adapter = new_adapter(method, models=models).eval()
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return adapter


def replace_weights(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give the adapter in `folder` other tensors, as its record then says."""
    save_file(dict(tensors), folder / "adapter.safetensors")
    record = read_checked(folder / "adapter.json")
    digest = sha256_file(folder / "adapter.safetensors")
    write_checked(folder / "adapter.json", record | {"sha256": digest})


SIZES: dict[str, Callable[[int], int]] = {
    "count": lambda count: min(count, 2),
    "end": lambda end: max(end, -2),
    "adapter_dim": lambda _: 16,
    "layers": lambda layers: min(layers, 2),
    "queries": lambda _: 3,
    "heads": lambda _: 2,
    "prompt_tokens": lambda count: min(count, 2),
}
METHODS = {
    path.stem: tiny({key: value for key, value in load_yaml(path).items() if key != "label"})
    for path in sorted((Path(__file__).parents[2] / "config" / "methods").glob("*.yaml"))
}
