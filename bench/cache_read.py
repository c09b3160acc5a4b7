"""Shuffled reading from a token cache against memcpy.

A shard in each format holds one layer of ViT-B/16 tokens, and all of it is read in batches of 16
out of the page cache, in a new order each time. The checksum of each row is verified. memcpy copies
as many bytes from one warm buffer to another, on one thread; it is the physical limit too.
"""

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from setting import BACKBONE, BATCH, Row, compared

from depalm.cache.formats import CLS, FORMATS
from depalm.cache.reader import TokenCache
from depalm.cache.writer import write_shard

LAYER, SAMPLES = 11, 1024
ARRAY = f"tokens/layer_{LAYER}"


def rows() -> Iterator[Row]:
    names = [f"image-{i}" for i in range(SAMPLES)]
    size = SAMPLES * BACKBONE.tokens * BACKBONE.width * 2
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for name, layout in FORMATS.items():
            path = Path(folder) / f"shard{layout.suffix}"
            write(path, names)
            cache = TokenCache([path], {})

            def read(cache: TokenCache = cache) -> None:
                order = random.sample(names, len(names))
                for i in range(0, len(order), BATCH):
                    cache.read(order[i : i + BATCH], [LAYER], cls_only=False)

            yield compared(
                f"cache, {name}: shuffled, checksums verified",
                read,
                lambda: np.copyto(target, source),
                "memcpy",
                runs=7,
                show=lambda taken: f"{size / taken / 1e9:.2f} GB/s",
            )


def write(path: Path, names: list[str]) -> None:
    torch.manual_seed(0)
    layers, tokens, width = BACKBONE.layers, BACKBONE.tokens, BACKBONE.width
    with write_shard(path, {}, BACKBONE.given(), [CLS, ARRAY], "float16") as shard:
        for start in range(0, len(names), BATCH):
            ids = names[start : start + BATCH]
            rows = {CLS: (len(ids), layers, width), ARRAY: (len(ids), tokens, width)}
            values = {name: torch.randn(shape).half() for name, shape in rows.items()}
            shard.add(ids, {name: v.view(torch.int16).numpy() for name, v in values.items()})
