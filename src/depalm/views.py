"""Views of the media: view 0 is clean, the others are augmented, each in its own way (DESIGN,
"Views").
"""

from collections.abc import Sequence
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
        self, media_ids: Sequence[str], layers: Sequence[int], cls_only: bool, epoch: int = 0
    ) -> Tensor:
        """See :meth:`TokenCache.read`: epoch e reads view e mod V of V."""
        return self.caches[epoch % len(self.caches)].read(media_ids, layers, cls_only)

    @property
    def rejected(self) -> dict[str, str]:
        """Media that any of the views lacks, and why."""
        reason = "rejected at extraction; the cache's rejects.parquet says why"
        return {media: reason for cache in self.caches for media in cache.rejected}

    @property
    def identity(self) -> list[Any]:
        """What tells these features from others, as JSON."""
        return [[cache.metadata for cache in self.caches], [c.checksums for c in self.caches]]
