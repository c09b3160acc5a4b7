"""Shuffled reading from a token cache against memcpy.

A shard in each format holds one layer of ViT-B/16 tokens, or 12 of fewer files, and all of it is
read in batches of 16 out of the page cache, in a new order each time. The checksum of each row is
verified. memcpy copies as many bytes from one warm buffer to another, on one thread; it is the
physical limit too.
"""

import random
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from setting import BACKBONE, BATCH, Row, compared

from depalm.cache.formats import CLS, FORMATS
from depalm.cache.reader import TokenCache
from depalm.cache.writer import write_shard

SAMPLES = 1024
# layers, and files: all that a method with one source reads, and with many
CASES = {"one layer": ([11], SAMPLES), "12 layers": (list(range(12)), SAMPLES // 8)}


def rows() -> Iterator[Row]:
    for what, (layers, samples) in CASES.items():
        names = [f"image-{i}" for i in range(samples)]
        size = len(layers) * samples * BACKBONE.tokens * BACKBONE.width * 2
        source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
        with tempfile.TemporaryDirectory(dir=".") as folder:
            for name, layout in FORMATS.items():
                path = Path(folder) / f"shard{layout.suffix}"
                write(path, names, layers)
                read = partial(read_all, TokenCache([path], {}), names, layers)
                yield compared(
                    f"cache, {name}: {what}, shuffled, checksums verified",
                    read,
                    partial(np.copyto, target, source),
                    "memcpy",
                    runs=7,
                    show=partial(speed, size),
                )


def speed(size: int, taken: float) -> str:
    return f"{size / taken / 1e9:.2f} GB/s"


def read_all(cache: TokenCache, names: list[str], layers: list[int]) -> None:
    order = random.sample(names, len(names))
    for i in range(0, len(order), BATCH):
        cache.read(order[i : i + BATCH], layers, cls_only=False)


def write(path: Path, names: list[str], layers: list[int]) -> None:
    torch.manual_seed(0)
    arrays = [f"tokens/layer_{layer}" for layer in layers]
    with write_shard(path, {}, BACKBONE.given(), [CLS, *arrays], "float16") as shard:
        for start in range(0, len(names), BATCH):
            ids = names[start : start + BATCH]
            shape = (len(ids), BACKBONE.tokens, BACKBONE.width)
            summary = (len(ids), BACKBONE.layers, BACKBONE.width)
            rows = {CLS: summary, **dict.fromkeys(arrays, shape)}
            values = {name: torch.randn(shape).half() for name, shape in rows.items()}
            shard.add(ids, {name: v.view(torch.int16).numpy() for name, v in values.items()})
