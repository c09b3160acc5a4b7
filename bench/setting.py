"""The setting of the benchmarks, an LLM of 12 layers and width 512, ViT-B/16 tokens, batches of 16;
and how they measure: ours and the baseline in turns, in one process, the median of each.
"""

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from depalm.llms.decoder import DecoderLLM
from depalm.specs import MethodSpec
from depalm.specs.backbone import BackboneShape
from depalm.specs.llm import LLMShape

ROOT = Path(__file__).parents[1]
BATCH, VOCABULARY = 16, 32_000
BACKBONE = BackboneShape(layers=12, tokens=197, width=768)
LLM_SHAPE = LLMShape(layers=12, width=512)
METHODS = sorted(path.stem for path in (ROOT / "config" / "methods").glob("*.yaml"))
Work = Callable[[], object]


class NoText:
    """The benchmarks run on token ids; generation never ends by itself."""

    bos_token_id = 1
    eos_token_id = -1


@dataclass(frozen=True)
class Row:
    """A line of the table: ours beside a baseline of the same run, and beside what the machine
    could do at best.

    ratio: how many times ours is as fast as the baseline; spread: how far the single turns' ratios
    lie from it, as a part of it. limit: the bound in words, share: the part of it that is reached.
    """

    what: str
    ours: str
    baseline: str
    ratio: float
    spread: float
    limit: str = ""
    share: float | None = None

    def __str__(self) -> str:
        bound = "" if self.share is None else f"{self.share:.0%} of {self.limit}"
        ratio = f"{self.ratio:.2f}x ± {self.spread:.0%}"
        return f"| {self.what} | {self.ours} | {self.baseline} | {ratio} | {bound} |"


HEAD = (
    "| What | Ours | Baseline in the same run | Ratio | Physical limit |",
    "| :-- | --: | :-- | --: | :-- |",
)


def turns(ours: Work, baseline: Work, runs: int = 3) -> list[tuple[float, float]]:
    """Seconds of both, in turns, after one turn that does not count."""
    measured = [(timed(ours), timed(baseline)) for _ in range(1 + runs)]
    return measured[1:]


def timed(work: Work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compared(
    what: str,
    ours: Work,
    baseline: Work,
    against: str,
    runs: int = 3,
    show: Callable[[float], str] = lambda taken: f"{taken:.2f} s",
    limit: tuple[str, float] | None = None,
) -> Row:
    """The row of two pieces of work; `limit` is a bound in words and the seconds it allows."""
    pairs = turns(ours, baseline, runs)
    mine, theirs = (median(times) for times in zip(*pairs, strict=True))
    ratio = theirs / mine
    spread = max(abs(b / a - ratio) for a, b in pairs) / ratio
    name, least = limit or ("", None)
    share = None if least is None else least / mine
    return Row(what, show(mine), f"{against}: {show(theirs)}", ratio, spread, name, share)


def seconds(work: Work, runs: int = 3, warmup: int = 1) -> float:
    """Median wall time of `work` over `runs`, after `warmup` runs that do not count."""
    return median([timed(work) for _ in range(warmup + runs)][warmup:])


@cache
def peak(dtype: torch.dtype = torch.float32) -> float:
    """FLOP a second of a large matrix product on the threads in use."""
    first, second = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
    return float(2 * 2048**3 / seconds(lambda: first @ second, runs=5))


def product(work: Work, dtype: torch.dtype = torch.float32) -> tuple[str, float]:
    """The bound of the matrix products in `work`: the seconds that they take at `peak`."""
    with FlopCounterMode(display=False) as counted:
        work()
    return "the matrix product", counted.get_total_flops() / peak(dtype)


def random_llm(**shape: int) -> DecoderLLM:
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
    return DecoderLLM(LlamaForCausalLM(LlamaConfig(**small | shape)), NoText())  # type: ignore[arg-type]


def in_bfloat16(llm: DecoderLLM) -> DecoderLLM:
    """A copy of it whose weights are in bfloat16."""
    return DecoderLLM(deepcopy(llm.model).bfloat16(), NoText())  # type: ignore[arg-type]


def method(name: str, layers: int = 12, **changes: Any) -> MethodSpec:
    """A method of config/methods, with other keys in the place of its own; targets in the middle of
    an LLM of 32 layers become those of one of `layers`.
    """
    path = ROOT / "config" / "methods" / f"{name}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in content.items() if key not in ("label", "train")}
    targets = kept.get("inject", {}).get("targets")
    if targets is not None and layers < 32:
        kept["inject"] = {**kept["inject"], "targets": {"count": 6, "end": -2}}
    return MethodSpec.model_validate(kept | changes)
