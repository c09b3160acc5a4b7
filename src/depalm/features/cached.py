"""Views of the media: view 0 is clean, the others are augmented, each in its own way (DESIGN,
"Views").
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

from torch import Tensor

from depalm.cache.store import TokenCache

Item = TypeVar("Item")
Value = TypeVar("Value")


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
        return {media: why for cache in self.caches for media, why in cache.rejected.items()}

    @property
    def identity(self) -> list[Any]:
        """What tells these features from others, as JSON."""
        return [[cache.metadata for cache in self.caches], [c.checksums for c in self.caches]]


def read_each(
    items: Iterable[Item], read: Callable[[Item], Value], ahead: bool
) -> Generator[tuple[Item, Value], None, None]:
    """Each item with what `read` gives for it, in order; with `ahead`, a thread reads for the next
    item while this one is used.

    An error of `read` is raised here, in the item's turn. Close the generator if it is left before
    its end: the thread ends with it.
    """
    if not ahead:
        yield from ((item, read(item)) for item in items)
        return
    items = iter(items)
    with ThreadPoolExecutor(max_workers=1) as thread:
        started = [(item, thread.submit(read, item)) for item in islice(items, 1)]
        while started:
            item, reading = started.pop()
            value = reading.result()
            started = [(after, thread.submit(read, after)) for after in islice(items, 1)]
            yield item, value
