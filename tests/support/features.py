"""Features that need no backbone, and views of caches for an adapter."""

from collections.abc import Mapping, Sequence
from zlib import crc32

import torch
from torch import Tensor

from depalm.adapters.adapter import Adapter
from depalm.cache.reader import TokenCache
from depalm.features.cached import CachedViews


class RandomFeatures:
    """What `adapter` reads: features drawn from the name of the media, in any epoch, on the device
    of the adapter; media have `tokens` of `width`.
    """

    rejected: Mapping[str, str] = {}

    def __init__(self, adapter: Adapter, tokens: int = 5, width: int = 8):
        self.layers, self.cls_only = adapter.source_layers, adapter.cls_only
        self.shape = tokens, width
        self.device = next(adapter.parameters()).device

    def load(self, media: Sequence[str], epoch: int = 0) -> Tensor:
        return self.read(media, epoch)

    def tokens(self, loaded: Tensor) -> Tensor:
        return loaded

    def read(self, media: Sequence[str], epoch: int = 0) -> Tensor:  # noqa: ARG002
        tokens = [
            torch.randn(
                len(self.layers),
                *self.shape,
                generator=torch.Generator().manual_seed(crc32(name.encode())),
            )
            for name in media
        ]
        return torch.stack(tokens)[:, :, : 1 if self.cls_only else None].to(self.device)


def views_of(adapter: Adapter, *caches: TokenCache) -> CachedViews:
    """The caches, one for each view, as `adapter` reads them."""
    keys = {key: key for cache in caches for key in (*cache.media, *cache.rejected)}
    return CachedViews(caches, keys, adapter.source_layers, adapter.cls_only, torch.device("cpu"))
