"""What training and generation read: one protocol, whatever the features come from."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Protocol, TypeVar

from torch import Tensor

from depalm.datasets.manifest import Sample
from depalm.progress import logger
from depalm.rejects import Reject

Item = TypeVar("Item")
Value = TypeVar("Value")


class FeatureSource(Protocol):
    """The features that an adapter reads: tokens of L source layers, on the run's device."""

    @property
    def rejected(self) -> Mapping[str, str]:
        """The media without features, each with the reason."""
        ...

    def load(self, media: Sequence[str], epoch: int = 0) -> Any:
        """What `tokens` takes for B media in an epoch; a thread may load it while the batch before
        is in use.
        """
        ...

    def tokens(self, loaded: Any) -> Tensor | None:
        """The tokens of the media that were loaded [B, L, T, D] (T = 1: the summary token alone);
        None if the adapter reads none.
        """
        ...


class NoFeatures:
    """The features of a method that reads no backbone."""

    rejected: Mapping[str, str] = {}

    def load(self, media: Sequence[str], epoch: int = 0) -> None:
        """Nothing."""

    def tokens(self, loaded: None) -> None:
        """Nothing."""


def read(source: FeatureSource, media: Sequence[str], epoch: int = 0) -> Tensor | None:
    """The tokens of B media in an epoch, loaded now."""
    return source.tokens(source.load(media, epoch))


def partition(
    samples: Sequence[Sample], rejected: Mapping[str, str]
) -> tuple[list[Sample], list[Reject]]:
    """The samples whose media have features, and the others, each with its medium's reason; how
    many there are is logged.
    """
    kept = [sample for sample in samples if sample.media not in rejected]
    rejects = [Reject(s.id, s.media, rejected[s.media]) for s in samples if s.media in rejected]
    logger.info("%d samples, %d of them without media", len(samples), len(rejects))
    return kept, rejects


def read_each(
    items: Iterable[Item], load: Callable[[Item], Value]
) -> Generator[tuple[Item, Value], None, None]:
    """Each item with what `load` gives for it, in order; a thread loads for the next item while
    this one is used.

    An error of `load` is raised here, in the item's turn. Close the generator if it is left before
    its end: the thread ends with it.
    """
    items = iter(items)
    with ThreadPoolExecutor(max_workers=1) as thread:
        started = [(item, thread.submit(load, item)) for item in islice(items, 1)]
        while started:
            item, reading = started.pop()
            value = reading.result()
            started = [(after, thread.submit(load, after)) for after in islice(items, 1)]
            yield item, value
