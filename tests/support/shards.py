"""Shards of a few known tokens."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from depalm.cache.writer import write_shard

SHAPE = {"layers": 4, "tokens": 5, "width": 6}
LAYERS = [1, 3]
ARRAYS = ["cls", "tokens/layer_1", "tokens/layer_3"]
METADATA: dict[str, Any] = {
    "backbone": {"model": "vit", "image_size": 28, "source": {"uri": "hf://a/b@c", "sha256": "0"}},
    "weights_sha256": "ab" * 32,
    "transform": {"image_size": 28, "mean": [0.5, 0.5, 0.5]},
    "view": 0,
}
MEDIA = [f"images/{i}.png" for i in range(7)]


def tokens_of(media: list[str], seed: int = 0) -> Tensor:
    """[B, L, T, D] that float16 and bfloat16 hold exactly."""
    torch.manual_seed(seed)
    return torch.randint(-99, 100, (len(media), *SHAPE.values())) / 8


def write(
    path: Path,
    media: list[str] = MEDIA,
    metadata: dict[str, Any] = METADATA,
    dtype: str = "float16",
    batch_size: int = 3,
    rejected: tuple[str, ...] = (),
    arrays: list[str] = ARRAYS,
) -> Path:
    tokens = tokens_of(MEDIA)
    with write_shard(path, metadata, SHAPE, arrays, dtype) as shard:
        for start in range(0, len(media), batch_size):
            ids = media[start : start + batch_size]
            shard.add(ids, shard.pack(tokens[[MEDIA.index(name) for name in ids]].unbind(1)))
        shard.rejected |= dict.fromkeys(rejected, ("empty file", None))
    return path
