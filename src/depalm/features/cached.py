"""Features from the cache of tokens: view 0 of a medium is clean, the others are augmented, each in
its own way (docs/design.md#views).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from depalm.cache.reader import TokenCache


@dataclass(frozen=True)
class CachedViews:
    """The caches of V views: epoch e reads view e mod V. Of each medium the tokens of `layers` are
    read, or with `cls_only` just their summary tokens, in the cache's dtype, onto `device`.
    """

    caches: Sequence[TokenCache]
    layers: Sequence[int]
    cls_only: bool
    device: torch.device
    read_ahead: ClassVar[bool] = True

    def read(self, media: Sequence[str], epoch: int = 0) -> Tensor:
        """Raises CacheError and DownloadError as `TokenCache.read` does."""
        cache = self.caches[epoch % len(self.caches)]
        return cache.read(media, self.layers, self.cls_only).to(self.device)

    @property
    def rejected(self) -> dict[str, str]:
        """Media that any of the views lacks, and why."""
        return {media: why for cache in self.caches for media, why in cache.rejected.items()}

    @property
    def identity(self) -> list[Any]:
        return [[cache.metadata for cache in self.caches], [c.checksums for c in self.caches]]
