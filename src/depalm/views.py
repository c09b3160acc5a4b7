"""Views of the media: view 0 is clean, the others are augmented, each in its own way (DESIGN,
"Views").
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from depalm.token_cache import TokenCache


def training_views(count: int) -> list[int]:
    """The views that training reads of `count`: the augmented ones, or the clean one if it is
    alone. Evaluation always reads view 0.
    """
    return list(range(1, count)) or [0]


class CachedViews:
    """The caches of the views that training reads, one for each epoch in turn."""

    def __init__(self, caches: Sequence[TokenCache]):
        self.caches = caches

    def read(
        self, media_ids: Sequence[str], layers: Sequence[int], cls_only: bool, epoch: int
    ) -> Tensor:
        """See :meth:`TokenCache.read`: epoch e reads view e mod V of V."""
        return self.caches[epoch % len(self.caches)].read(media_ids, layers, cls_only)

    @property
    def rejected(self) -> frozenset[str]:
        """Media that any of the views lacks."""
        return frozenset[str]().union(*(cache.rejected for cache in self.caches))

    @property
    def metadata(self) -> list[Mapping[str, Any]]:
        return [cache.metadata for cache in self.caches]

    @property
    def checksums(self) -> list[Any]:
        return [cache.checksums for cache in self.caches]
