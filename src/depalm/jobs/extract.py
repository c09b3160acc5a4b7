"""Extraction of a shard of a token cache (rule `extract`)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from depalm.jobs.job import Job, checked
from depalm.specs import BackboneSpec


@dataclass(frozen=True, kw_only=True)
class ExtractJob(Job):
    """Extract the tokens of one shard of a cache with a frozen backbone.

    The media of `manifest`, whose files lie in the folder `data`, are cut into `shards` shards, of
    which this is number `index` (from 0). `backbone` is the content of the backbone's YAML,
    `weights` the folder of its weights. All tokens are kept of `layers`, the summary token of every
    layer. View 0 sees the files as they are; any other `view` augments them. `cache` has dtype,
    batch_size, decode_seconds and max_reject_fraction. Outputs are the `shard` (.zarr or .tar)
    and in `rejects` the files that could not be decoded. `workers` processes decode; `device` and
    `threads` say where the backbone runs.
    """

    command: ClassVar[str] = "extract"

    manifest: str
    data: str
    weights: str
    backbone: BackboneSpec
    layers: list[int]
    view: int = 0
    index: int = 0
    shards: int = 1
    cache: dict[str, Any] = field(default_factory=dict)
    shard: str
    rejects: str
    device: str = "auto"
    threads: int = 1
    workers: int = 1

    def run(self) -> None:
        """Raises BackboneError, CacheError, DecodingError, ExtractionError, OutsideError or
        RejectError.
        """
        import torch

        from depalm.datasets.manifest import read_manifest, unique_media
        from depalm.features.extract import Extraction, extract, media_of_shard
        from depalm.provenance import choose_device
        from depalm.rejects import write_rejects

        torch.set_num_threads(self.threads)
        media = unique_media(read_manifest(self.manifest))
        rejects = extract(
            backbone=self.backbone,
            weights=Path(self.weights),
            root=Path(self.data),
            media=media_of_shard(media, self.index, self.shards),
            layers=self.layers,
            output=Path(self.shard),
            settings=checked(Extraction, {"workers": self.workers, **self.cache}, "cache"),
            device=choose_device(self.device),
            view=self.view,
        )
        write_rejects(self.rejects, rejects)
