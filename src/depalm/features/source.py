"""Where a run's features come from: nothing, the token store, or a backbone in the loop. The plan
says which (`depalm.specs.features`); it is opened here.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from depalm.adapters.adapter import Adapter
from depalm.adapters.errors import AdapterError
from depalm.adapters.layout import Layout
from depalm.backbones.base import Backbone
from depalm.backbones.load import load_backbone
from depalm.cache.errors import CacheError
from depalm.cache.formats import array_names
from depalm.cache.published import open_published
from depalm.cache.reader import TokenCache
from depalm.cache.store import open_folder, read_receipt
from depalm.datasets.manifest import Sample, media_keys
from depalm.features.base import FeatureSource, NoFeatures
from depalm.features.cached import CachedViews
from depalm.features.online import Media, online_features
from depalm.files import inside, sha256_json
from depalm.identity import token_identity, weights_identity
from depalm.media.decoders import load_decoder
from depalm.specs import BackboneSpec
from depalm.specs.features import Cached, Features

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Source:
    """The source of the features of `samples`: the plan's `features`, read as `layout` says.

    `directory` is that of the backbone's weights, or None for a method that reads no backbone.
    `workers` processes decode files if the backbone is in the loop.
    """

    backbone: BackboneSpec
    directory: Path | None
    features: Features
    layout: Layout
    samples: Sequence[Sample]
    workers: int = 1

    def __post_init__(self) -> None:
        if bool(self.layout.source_layers) != (self.features.kind != "none"):
            reads = "reads tokens" if self.layout.source_layers else "reads no tokens"
            raise AdapterError(f"the method {reads}, but its features are {self.features.kind!r}")
        if self.features.kind == "online" and self.directory is None:
            raise AdapterError("features 'online' need the directory of the backbone's weights")

    @property
    def identity(self) -> Any:
        """What tells the features from others, but for the models, as JSON: checksums of rows, or
        of files. It takes no model to know it.

        Raises CacheError, DownloadError.
        """
        if self.features.kind == "cached":
            return self.views.identity
        if self.features.kind == "online":
            transform = load_decoder(self.backbone).describe(with_seed=True)
            files = sorted(set(self.media.values()))
            compute = self.features.compute
            return {"transform": transform, "files": sha256_json(files), "compute": compute}
        return None

    @property
    def precision(self) -> dict[str, Any]:
        """What the backbone computes in, and what its tokens are kept in, if they are."""
        if self.features.kind == "cached":
            metadata = self.views.caches[0].metadata
            return {key: metadata[key] for key in ("compute", "dtype") if key in metadata}
        return {"compute": self.features.compute} if self.features.kind == "online" else {}

    @cached_property
    def media(self) -> dict[str, str]:
        return media_keys(self.samples)

    @cached_property
    def views(self) -> CachedViews:
        """The rows of the store that are read. Raises CacheError if one is missing."""
        assert isinstance(self.features, Cached)
        return open_views(self.layout, self.features, self.media, self.backbone, self.directory)

    def load_model(self, device: torch.device) -> Backbone | None:
        """The backbone, if the run has it in the loop; None if a cache is read, or nothing."""
        if self.features.kind != "online" or self.directory is None:
            return None
        return load_backbone(self.backbone, self.directory).to(device)

    def open(
        self,
        adapter: Adapter,
        model: Backbone | None,
        device: torch.device,
        seed: int | None = None,
        drop_path: bool = False,
    ) -> AbstractContextManager[FeatureSource]:
        """What `adapter` reads: nothing, rows of the store, or the tokens of `model` (see
        `load_model`), for training augmented by `seed` and with the model's `drop_path`.

        Raises AdapterError for an adapter that tunes a backbone whose tokens are cached, and what
        the source itself raises.
        """
        planned = self.features
        if planned.kind == "none":
            return nullcontext(NoFeatures())
        if planned.kind == "cached":
            if "backbone" in adapter.finetune:
                raise AdapterError(
                    "a cache holds the tokens of the frozen backbone, not of a tuned one"
                )
            return nullcontext(replace(self.views, device=device))
        if model is None:
            raise AdapterError("features 'online' need the directory of the backbone's weights")
        media = Media(
            Path(planned.media), self.workers, planned.decode_seconds, planned.max_reject_fraction
        )
        how = (device, seed, drop_path, planned.compute)
        return online_features(adapter, model, self.backbone, media, self.media, *how)


def open_views(
    layout: Layout,
    features: Cached,
    media: dict[str, str],
    backbone: BackboneSpec,
    directory: Path | None = None,
) -> CachedViews:
    """The rows of `media` (keys by name) in each view.

    Raises CacheError for rows of something else than `backbone` with the weights in `directory`,
    and for rows that are missing.
    """
    arrays = array_names(layout.source_layers, layout.cls_only)
    caches = []
    for path, view in zip(features.receipts, features.views, strict=True):
        receipt = read_receipt(path)
        if missing := sorted(set(arrays) - set(receipt["arrays"])):
            raise CacheError(f"{path} tells of {receipt['arrays']}, not of {missing}")
        expected = token_identity(backbone, view)
        if directory is not None:
            expected["weights_sha256"] = weights_identity(directory)
        caches.append(_open(features.store, receipt["store"], expected, media))
    views = CachedViews(caches, media, layout.source_layers, layout.cls_only, CPU)
    for path, cache in zip(features.receipts, caches, strict=True):
        if lost := cache.lacking(media, arrays):
            raise CacheError(
                f"the token store lacks {len(lost)} of the {len(media)} media that {path} tells "
                f"of, {next(iter(lost))} for one. Run `depalm cache verify --repair`, then "
                "Snakemake again"
            )
    return views


def _open(store: str, place: str, expected: dict[str, Any], media: dict[str, str]) -> TokenCache:
    if "://" in store:
        return open_published(store, place, expected, media.values())
    return open_folder(inside(store, place), expected)
