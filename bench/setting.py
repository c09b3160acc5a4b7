"""The setting of the benchmarks: an LLM of 12 layers and width 512, ViT-B/16 tokens, batch 16."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from depalm.llms.llama import LlamaLLM
from depalm.specs import MethodSpec
from depalm.specs.backbone import BackboneShape
from depalm.specs.llm import LLMShape

BATCH, VOCABULARY = 16, 32_000
BACKBONE = BackboneShape(layers=12, tokens=197, width=768)
LLM_SHAPE = LLMShape(layers=12, width=512)


class NoText:
    """The benchmarks run on token ids; generation never ends by itself."""

    bos_token_id = 1
    eos_token_id = -1


def random_llm(**shape: int) -> LlamaLLM:
    """A LLaMA with random weights, float32; `shape` changes its configuration."""
    torch.manual_seed(0)
    small: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "initializer_range": 0.1,  # large enough for texts that depend on what is injected
    }
    return LlamaLLM(LlamaForCausalLM(LlamaConfig(**small | shape)), NoText())  # type: ignore[arg-type]


def method(name: str, **changes: Any) -> MethodSpec:
    """A method of config/methods, with other keys in the place of its own."""
    path = Path(__file__).parents[1] / "config" / "methods" / f"{name}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in content.items() if key not in ("label", "train")}
    return MethodSpec.model_validate(kept | changes)


def seconds(work: Callable[[], object], runs: int = 3, warmup: int = 1) -> float:
    """Median wall time of `work` over `runs`, after `warmup` runs that do not count."""
    times = []
    for i in range(warmup + runs):
        started = time.perf_counter()
        work()
        if i >= warmup:
            times.append(time.perf_counter() - started)
    return median(times)


def report(what: str, ours: float, baseline: float, against: str) -> None:
    print(f"{what}: {ours:.2f} s, {against}: {baseline:.2f} s, ratio {baseline / ours:.1f}x")
