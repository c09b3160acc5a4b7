"""Where a run's features come from: nothing, caches, or a backbone in the loop. The plan says which
(`depalm.specs.features`); it is opened here.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from depalm.adapters.adapter import Adapter
from depalm.adapters.errors import AdapterError
from depalm.backbones.base import Backbone
from depalm.backbones.load import load_backbone
from depalm.cache.reader import TokenCache
from depalm.datasets.manifest import Sample, unique_media
from depalm.features.base import FeatureSource, NoFeatures
from depalm.features.cached import CachedViews
from depalm.features.online import Media, online_features
from depalm.identity import token_identity, weights_identity
from depalm.specs import BackboneSpec
from depalm.specs.features import Features

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Source:
    """The source of a run's features: the plan's `features`.

    `directory` is that of the backbone's weights, or None for a method that reads no backbone.
    `workers` processes decode files if the backbone is in the loop.
    """

    backbone: BackboneSpec
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
    ) -> AbstractContextManager[FeatureSource]:
        """What `adapter` reads of the samples' media: nothing, caches, or the tokens of `model`
        (see `load_model`), for training augmented by `seed`.

        Raises AdapterError if the adapter needs something else, and what the source itself raises.
        """
        planned = self.features
        if bool(adapter.source_layers) != (planned.kind != "none"):
            reads = "reads tokens" if adapter.source_layers else "reads no tokens"
            raise AdapterError(f"the method {reads}, but its features are {planned.kind!r}")
        if planned.kind == "none":
            return nullcontext(NoFeatures())
        if planned.kind == "cached":
            shards, views = planned.shards, planned.views
            opened = open_views(adapter, shards, views, self.backbone, self.directory, device)
            return nullcontext(opened)
        if model is None:
            raise AdapterError("features 'online' need the directory of the backbone's weights")
        media = Media(
            Path(planned.media), self.workers, planned.decode_seconds, planned.max_reject_fraction
        )
        files = unique_media(samples)
        return online_features(adapter, model, self.backbone, media, files, device, seed)


def open_cache(
    shards: Sequence[Path | str],
    backbone: BackboneSpec,
    directory: Path | None = None,
    view: int = 0,
) -> TokenCache:
    """A cache, checked against the backbone and its weights in `directory`. Raises CacheError."""
    expected = token_identity(backbone, view)
    if directory is not None:
        expected["weights_sha256"] = weights_identity(directory)
    return TokenCache(shards, expected)


def open_views(
    adapter: Adapter,
    shards: Sequence[Path | str],
    views: Sequence[int],
    backbone: BackboneSpec,
    directory: Path | None = None,
    device: torch.device = CPU,
) -> CachedViews:
    """The caches of the views that an adapter reads, `shards` those of one after those of another.

    Raises CacheError for a cache of something else, or without the layers to be read, and
    AdapterError for an adapter that tunes the backbone.
    """
    if "backbone" in adapter.finetune:
        raise AdapterError("a cache holds the tokens of the frozen backbone, not of a tuned one")
    size = len(shards) // len(views)
    caches = [
        open_cache(shards[i * size : (i + 1) * size], backbone, directory, view)
        for i, view in enumerate(views)
    ]
    for cache in caches:  # no sample: whether it has the layers
        cache.read([], adapter.source_layers, adapter.cls_only)
    return CachedViews(caches, adapter.source_layers, adapter.cls_only, device)
