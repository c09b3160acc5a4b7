"""Where a run's features come from: nothing, caches, or a backbone in the loop; and which samples
have some.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from depalm.adapters.adapter import Adapter
from depalm.adapters.errors import AdapterError
from depalm.backbones.base import Backbone
from depalm.backbones.registry import load_backbone, weights_identity
from depalm.cache.store import TokenCache
from depalm.datasets.manifest import Sample, unique_media
from depalm.features.cached import CachedViews
from depalm.features.online import Media, OnlineFeatures, online_features
from depalm.media.decoders import token_identity
from depalm.progress import logger
from depalm.rejects import Reject
from depalm.specs.features import Features


@dataclass(frozen=True)
class Source:
    """What a run reads its features from: the plan's `features`.

    `backbone` is the YAML of the backbone, `directory` that of its weights, or None for a method
    that reads no backbone. `workers` processes decode files where the backbone is in the loop.
    """

    backbone: Mapping[str, Any]
    directory: Path | None
    features: Features
    workers: int = 1

    def load_model(self, device: torch.device) -> Backbone | None:
        """The backbone, if the run has it in the loop; None if a cache is read, or nothing."""
        if self.features.kind != "online" or self.directory is None:
            return None
        return load_backbone(self.backbone, self.directory).to(device)

    def open(
        self,
        adapter: Adapter,
        model: Backbone | None,
        samples: Sequence[Sample],
        device: torch.device,
        seed: int | None = None,
    ) -> AbstractContextManager[CachedViews | OnlineFeatures | None]:
        """What `adapter` reads of the samples' media: the tokens of `model` (see
        :meth:`load_model`), for training augmented by `seed`, or else caches; None if it reads
        none.
        """
        planned = self.features
        if planned.kind == "online" and model is not None:
            media = Media(
                Path(planned.media),
                self.workers,
                planned.decode_seconds,
                planned.max_reject_fraction,
            )
            files = unique_media(samples)
            return online_features(adapter, model, self.backbone, media, files, device, seed)
        shards, views = ([], [0])
        if planned.kind == "cached":
            shards, views = planned.shards, planned.views
        return nullcontext(open_views(adapter, shards, views, self.backbone, self.directory))


def open_cache(
    adapter: Adapter,
    shards: Sequence[Path | str],
    backbone: Mapping[str, Any],
    directory: Path | None = None,
    view: int = 0,
) -> TokenCache | None:
    """The cache that the adapter reads, checked against the backbone and its weights in
    `directory`, and against the layers to be read; None for a method that reads none.
    """
    if "backbone" in adapter.finetune:
        raise AdapterError("a cache holds the tokens of the frozen backbone, not of a tuned one")
    if not adapter.source_layers:
        return None
    expected = token_identity(backbone, view)
    if directory is not None:
        expected["weights_sha256"] = weights_identity(directory)
    cache = TokenCache(shards, expected)
    cache.read([], adapter.source_layers, adapter.cls_only)  # no sample: whether it has the layers
    return cache


def open_views(
    adapter: Adapter,
    shards: Sequence[Path | str],
    views: Sequence[int],
    backbone: Mapping[str, Any],
    directory: Path | None = None,
) -> CachedViews | None:
    """The caches of the views that training reads, `shards` those of one after those of another."""
    size = len(shards) // len(views)
    caches = [
        open_cache(adapter, shards[i * size : (i + 1) * size], backbone, directory, view)
        for i, view in enumerate(views)
    ]
    opened = [cache for cache in caches if cache is not None]
    return CachedViews(opened) if opened else None


def with_media(
    samples: Sequence[Sample], cache: CachedViews | OnlineFeatures | None
) -> list[Sample]:
    """The samples whose media were not rejected; how many were is logged."""
    rejected = {} if cache is None else cache.rejected
    kept = [sample for sample in samples if sample.media not in rejected]
    logger.info("%d samples, %d of them without media", len(samples), len(samples) - len(kept))
    return kept


def left_out(samples: Sequence[Sample], cache: CachedViews | OnlineFeatures | None) -> list[Reject]:
    """The samples that :func:`with_media` does not keep, each with the reason."""
    rejected = {} if cache is None else cache.rejected
    return [Reject(s.id, s.media, rejected[s.media]) for s in samples if s.media in rejected]
