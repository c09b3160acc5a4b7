"""Features from the token store: view 0 of a medium is clean, the others are augmented, each in its
own way (docs/design.md#views).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from depalm.cache.formats import array_names
from depalm.cache.reader import TokenCache
from depalm.precision import on_its_way


@dataclass(frozen=True)
class CachedViews:
    """The caches of V views: epoch e reads view e mod V. Of each medium the tokens of `layers` are
    read, or with `cls_only` just their summary tokens, in the cache's dtype, onto `device`.

    `keys` are those of the media in the caches, by name.
    """

    caches: Sequence[TokenCache]
    keys: Mapping[str, str]
    layers: Sequence[int]
    cls_only: bool
    device: torch.device

    def load(self, media: Sequence[str], epoch: int = 0) -> Tensor:
        """Raises CacheError and DownloadError as `TokenCache.read` does."""
        cache = self.caches[epoch % len(self.caches)]
        names = {self.keys[name]: name for name in media}
        keys = [self.keys[name] for name in media]
        tokens = cache.read(keys, self.layers, self.cls_only, names)
        return on_its_way(tokens, self.device)

    def tokens(self, loaded: Tensor) -> Tensor:
        """[B, L, T, D]: what was loaded."""
        return loaded

    @property
    def rejected(self) -> dict[str, str]:
        """Media that any of the views lacks, and why."""
        return {
            name: cache.rejected[key].reason
            for cache in self.caches
            for name, key in self.keys.items()
            if key in cache.rejected
        }

    @property
    def identity(self) -> list[str]:
        """The checksums of all rows that are read, view by view."""
        arrays = array_names(self.layers, self.cls_only)
        keys = sorted(set(self.keys.values()))
        return [cache.digest(keys, arrays) for cache in self.caches]
