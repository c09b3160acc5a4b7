"""Shuffled reading from a token cache against memcpy, and against the training step that it feeds.

A shard in each format holds one layer of ViT-B/16 tokens, and all of it is read in batches of 16:
once from the disk (of a virtual machine; its host may cache it), then round by round, each in a new
order, out of the page cache. The checksum of each row is verified. memcpy copies as many bytes from
one warm buffer to another, on one thread. The step is `qp_l0` in front of a random LLaMA of
SmolLM2-135M's shape in bfloat16.

Usage: python bench/cache_read.py [threads] [samples]
"""

import os
import random
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import torch
from setting import BACKBONE, BATCH, method, random_llm, seconds
from torch.nn.attention import SDPBackend, sdpa_kernel

from depalm.adapters.adapter import Adapter
from depalm.cache.formats import FORMATS
from depalm.cache.reader import TokenCache
from depalm.cache.writer import write_shard
from depalm.specs.llm import LLMShape
from depalm.training.batches import Batch
from depalm.training.loop import answer_loss

LAYER, CAPTION, ROUNDS = 11, 14, 7
ARRAY = f"tokens/layer_{LAYER}"
SMOLLM2_135M = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}


def main(threads: int, samples: int) -> None:
    torch.set_num_threads(threads)
    step = step_seconds()
    names = [f"image-{i}" for i in range(samples)]
    size = samples * BACKBONE.tokens * BACKBONE.width * 2
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        caches, cold = {}, {}
        for name, layout in FORMATS.items():
            shard = Path(folder) / f"shard{layout.suffix}"
            write(shard, names)
            evict(shard)
            caches[name] = TokenCache([shard], {})
            cold[name] = read(caches[name], names)
        rates: dict[str, list[float]] = {name: [] for name in ("memcpy", *caches)}
        for _ in range(ROUNDS):
            rates["memcpy"].append(size / seconds(lambda: np.copyto(target, source), 1, 0))
            for name, cache in caches.items():
                rates[name].append(size / sum(read(cache, names)))
    memcpy = median(rates["memcpy"])
    print(f"memcpy: {memcpy / 1e9:.2f} GB/s; a training step of {BATCH}: {step:.2f} s")
    for name in caches:
        rate, slowest = median(rates[name]), max(cold[name])
        print(
            f"{name}: {rate / 1e9:.2f} GB/s, {rate / memcpy:.0%} of memcpy; from the disk "
            f"{size / sum(cold[name]) / 1e9:.2f} GB/s, slowest batch {slowest * 1e3:.1f} ms, "
            f"{slowest / step:.1%} of a training step"
        )


def write(path: Path, names: list[str]) -> None:
    torch.manual_seed(0)
    layers, tokens, width = BACKBONE.layers, BACKBONE.tokens, BACKBONE.width
    with write_shard(path, {}, BACKBONE.given(), ["cls", ARRAY], "float16") as shard:
        for start in range(0, len(names), BATCH):
            ids = names[start : start + BATCH]
            rows = {"cls": (len(ids), layers, width), ARRAY: (len(ids), tokens, width)}
            values = {name: torch.randn(shape).half() for name, shape in rows.items()}
            shard.add(ids, {name: v.view(torch.int16).numpy() for name, v in values.items()})


def read(cache: TokenCache, names: list[str]) -> list[float]:
    """Seconds that each batch of an epoch takes."""
    order = random.sample(names, len(names))
    batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    return [
        seconds(lambda media=media: cache.read(media, [LAYER], cls_only=False), 1, 0)
        for media in batches
    ]


def evict(shard: Path) -> None:
    """Take a shard's files out of the page cache."""
    for path in [shard, *shard.rglob("*")]:
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def step_seconds() -> float:
    """A training step on features that are in memory."""
    llm = random_llm(**SMOLLM2_135M)
    llm.model.to(torch.bfloat16)
    shape = LLMShape(layers=SMOLLM2_135M["num_hidden_layers"], width=SMOLLM2_135M["hidden_size"])
    adapter = Adapter(method("qp_l0"), BACKBONE, shape)
    optimizer = torch.optim.AdamW(adapter.parameters(), 1e-4)
    token_ids = torch.randint(3, SMOLLM2_135M["vocab_size"], (BATCH, CAPTION))
    batch = Batch([], token_ids, token_ids.roll(-1, dims=1))
    features = torch.randn(BATCH, 1, BACKBONE.tokens, BACKBONE.width).half()

    def step() -> None:
        with sdpa_kernel(SDPBackend.MATH):
            answer_loss(llm, adapter, features, batch, 2e-3).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return seconds(step, runs=5)


if __name__ == "__main__":
    main(*(int(value) for value in (sys.argv[1:] + ["2", "1024"][len(sys.argv) - 1 :])))
