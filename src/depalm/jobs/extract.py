"""Rows of the token store: extracted, fetched, and told of (rules `extract`, `fetch_rows`,
`receipt`).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from depalm.jobs.job import Job, checked
from depalm.specs import BackboneSpec


@dataclass(frozen=True, kw_only=True)
class RowsJob(Job):
    """A job on the rows of one split.

    The media are those of `manifest`. `backbone` is the content of the backbone's YAML. `layers`
    are the arrays, such as cls-3-11: the summary tokens of every layer, and all tokens of two.
    The backbone computes in `compute`, with its blocks `compiled` or not, and its tokens are kept
    in `dtype`. View 0 sees the files as they are; any other `view` augments them.
    """

    manifest: str
    backbone: BackboneSpec
    layers: str
    view: int = 0
    dtype: str = "float16"
    compute: str = "tf32"
    compiled: bool = False
    store: str

    @property
    def encoding(self) -> dict[str, Any]:
        """What tells the rows of one view from those of the same backbone in another precision."""
        from depalm.identity import precision_identity

        return {"view": self.view, **precision_identity(self.dtype, self.compute, self.compiled)}


@dataclass(frozen=True, kw_only=True)
class ExtractJob(RowsJob):
    """Extract the tokens of a part of a split with a frozen backbone, as far as the store lacks
    them.

    The media of `manifest`, whose files lie in the folder `data`, are cut into `shards` parts, of
    which this is number `index` (from 0). `backbone` is the content of the backbone's YAML, called
    `name`, `weights` the folder of its weights. `layers` are the arrays to be extracted, such as
    cls-3-11: the summary tokens of every layer, and all tokens of two. View 0 sees the files as
    they are; any other `view` augments them. The backbone computes in `compute`, with its blocks
    `compiled` or not, and its tokens are kept in `dtype`, under the folder `store`.
    `cache` has format, batch_size, decode_seconds and max_reject_fraction. Output is the `report`
    of what was done. `workers` processes decode; `device` and `threads` say where the backbone
    runs.
    """

    command: ClassVar[str] = "extract"

    data: str
    weights: str
    name: str
    index: int = 0
    shards: int = 1
    cache: dict[str, Any] = field(default_factory=dict)
    report: str
    device: str = "auto"
    threads: int = 1
    workers: int = 1

    def run(self) -> None:
        """Raises BackboneError, CacheError, DecodingError, ExtractionError, OutsideError or
        RejectError.
        """
        import torch

        from depalm.cache.formats import arrays_of
        from depalm.datasets.manifest import media_keys, read_manifest
        from depalm.features.encoder import Encoder
        from depalm.features.extract import Extraction, extract, media_of_shard
        from depalm.gpus import take_gpus
        from depalm.provenance import choose_device, device_name

        torch.set_num_threads(self.threads)
        take_gpus(self.device)
        device = choose_device(self.device)
        keys = media_keys(read_manifest(self.manifest))
        part = media_of_shard(list(keys), self.index, self.shards)
        weights = Path(self.weights)
        done = extract(
            Encoder(
                self.name,
                self.backbone,
                weights,
                self.view,
                self.dtype,
                self.compute,
                self.compiled,
            ),
            root=Path(self.data),
            media={name: keys[name] for name in part},
            arrays=arrays_of(self.layers),
            store=Path(self.store),
            settings=checked(Extraction, {"workers": self.workers, **self.cache}, "cache"),
            device=device,
            split_size=len(keys),
        )
        place = done.folder.relative_to(self.store).as_posix()
        write_report(self.report, place, len(part), done.forwarded, device=device_name(device))


@dataclass(frozen=True, kw_only=True)
class FetchRowsJob(RowsJob):
    """Fetch the rows of a part of a split from a published token store, as far as ours lacks them.

    `url` is that of a folder that `depalm cache publish` has made. The media of `manifest` are cut
    into `shards` parts, of which this is number `index`. Whole shards that hold rows in the arrays
    `layers` are fetched into the folder `store`, and every row of them is verified. They must hold
    the tokens of the `view` by the backbone whose YAML is `backbone`, computed in `compute`, with
    blocks `compiled` or not, and kept in `dtype`. Output is the `report` of what was done.
    """

    command: ClassVar[str] = "fetch-rows"

    url: str
    index: int = 0
    shards: int = 1
    report: str

    def run(self) -> None:
        """Raises CacheError or DownloadError."""
        from depalm.cache.formats import arrays_of
        from depalm.cache.published import fetch_rows, published_place
        from depalm.datasets.manifest import media_keys, read_manifest
        from depalm.features.extract import media_of_shard
        from depalm.identity import token_identity

        keys = media_keys(read_manifest(self.manifest))
        part = media_of_shard(list(keys), self.index, self.shards)
        expected = {**token_identity(self.backbone, self.view), **self.encoding}
        place = published_place(self.url, expected)
        media = {name: keys[name] for name in part}
        count = fetch_rows(
            self.url, place, expected, media, arrays_of(self.layers), Path(self.store)
        )
        write_report(self.report, place, len(part), count)


@dataclass(frozen=True, kw_only=True)
class ReceiptJob(RowsJob):
    """Look up the rows of a split in the token store, and write what they are.

    The media are those of `manifest`, the rows those in the arrays that `layers` names, such as 11
    or cls. `extractions` are the reports of those who put them there. If the `store` is a URL,
    there are none: the rows must be those of the `view` by the backbone whose YAML is `backbone`,
    computed in `compute`, with blocks `compiled` or not, and kept in `dtype`. More than
    `max_reject_fraction` rejected media of the split fail the job. Output is the `receipt`.
    """

    command: ClassVar[str] = "receipt"

    extractions: list[str] = field(default_factory=list)
    max_reject_fraction: float = 0.001
    receipt: str

    def run(self) -> None:
        """Raises CacheError, DownloadError or RejectError."""
        from depalm.cache.formats import arrays_of
        from depalm.cache.store import open_folder, write_receipt
        from depalm.datasets.manifest import media_keys, read_manifest
        from depalm.files import inside
        from depalm.rejects import Reject, check_rejects

        keys = media_keys(read_manifest(self.manifest))
        if "://" in self.store:
            from depalm.cache.published import open_published, published_place
            from depalm.identity import token_identity

            expected = {**token_identity(self.backbone, self.view), **self.encoding}
            place = published_place(self.store, expected)
            cache = open_published(self.store, place, expected, keys.values())
        else:
            place = read_place(self.extractions)
            cache = open_folder(inside(self.store, place), self.encoding)
        rejected = write_receipt(self.receipt, cache, place, keys, arrays_of(self.layers))
        bad = [Reject(name, name, reason) for name, reason in rejected.items()]
        check_rejects(bad, len(keys), self.max_reject_fraction, "extraction")


def write_report(path: str, place: str, media: int, forwarded: int, **told: str) -> None:
    """Write where in the store the rows of so many media are, and how many of them were new."""
    from depalm.files import write_checked

    write_checked(path, {"store": place, "media": media, "new": forwarded, **told})


def read_place(reports: list[str]) -> str:
    """The folder in the store that reports of extractions name. Raises CacheError."""
    from depalm.cache.errors import CacheError
    from depalm.cache.store import read_receipt

    places = {read_receipt(path)["store"] for path in reports}
    if len(places) != 1:
        raise CacheError(
            f"{', '.join(reports)} are of encoders that differ, {sorted(places)}: remove them, and "
            "run Snakemake again"
        )
    return str(places.pop())
