"""Extraction: media files -> tokens of a frozen backbone in one shard of the cache.

Worker processes decode the next batches while the backbone works on this one and a thread writes
the last. Batches are cut from the list of media before anything is decoded, so that no byte depends
on the number of workers or on other shards.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from depalm.backbones.base import Backbone
from depalm.backbones.load import load_backbone
from depalm.cache.errors import CacheError
from depalm.cache.formats import format_of, predicted_bytes
from depalm.cache.reader import TokenCache
from depalm.cache.writer import ShardWriter, require_disk, write_shard
from depalm.errors import DepalmError
from depalm.files import inside
from depalm.identity import token_identity, weights_identity
from depalm.lease import Lease, while_owned
from depalm.media.decoders import load_decoder, view_seed
from depalm.media.pool import DecodedBatch, DecodingPool, File
from depalm.progress import Progress, logger
from depalm.rejects import Reject, check_rejects, report_rejects
from depalm.specs import BackboneSpec


class ExtractionError(DepalmError):
    """An invalid shard number."""


@dataclass(frozen=True)
class Extraction:
    """How tokens are extracted: `batch_size` files at a time, decoded by `workers` processes in at
    most `decode_seconds` each, and kept in `dtype`; more than `max_reject_fraction` bad files end
    the job.
    """

    dtype: str = "float16"
    batch_size: int = 64
    workers: int = 1
    decode_seconds: float = 60.0
    max_reject_fraction: float = 0.001


def media_of_shard(media: Sequence[str], shard: int, shards: int) -> list[str]:
    """Shard number `shard` (from 0) of `shards` runs of nearly equal length.

    It is empty where there are more shards than media.
    """
    if not 0 <= shard < shards:
        raise ExtractionError(f"there is no shard {shard} of {shards}: they count from 0")
    return list(media[shard * len(media) // shards : (shard + 1) * len(media) // shards])


def extract(
    backbone: BackboneSpec,
    weights: Path,
    root: Path,
    media: Sequence[str],
    layers: Sequence[int],
    output: Path,
    settings: Extraction,
    device: torch.device | str,
    view: int = 0,
) -> list[Reject]:
    """Write the tokens of `media` (paths under `root`) to the shard `output`; return the rejects.

    `weights` is the directory of the backbone's weights; of `layers` all tokens are kept.
    View 0 of a file is clean, the others are augmented, each in its own way. Raises RejectError as
    soon as more files are bad than tolerated, CacheError if the disk is too small for the shard,
    BackboneError, DecodingError, and OutsideError for media that lie outside of `root`.
    """
    sizes = predicted_bytes(format_of(output), len(media), backbone.shape.given(), layers)
    size = sum(sizes.values())
    logger.info("%s: %d files, %.1f MB", output, len(media), size / 1e6)
    require_disk(output, size)
    if not media:
        logger.warning("%s: there are more shards than files, so this one is empty", output)
    metadata = {**token_identity(backbone, view), "weights_sha256": weights_identity(weights)}
    wanted = {**metadata, "layers": list(layers), "dtype": settings.dtype}
    files = [File(name, inside(root, name), view_seed(name, view)) for name in media]

    def work(held: Lease) -> list[Reject]:
        if held.waited and (rejects := rejects_of(output, wanted, media)) is not None:
            logger.info("%s: the job that was waited for has written it", output)
        else:
            model = load_backbone(backbone, weights).to(device)
            pool = DecodingPool(
                load_decoder(backbone),
                settings.workers,
                settings.decode_seconds,
                pin_memory=torch.device(device).type == "cuda",
            )
            with pool, write_shard(output, metadata, model.shape, layers, settings.dtype) as shard:
                rejects = _fill(shard, model, pool, files, settings, device, held.check)
        report_rejects(rejects, len(media), "extraction")
        return rejects

    return while_owned(output, work)


def rejects_of(shard: Path, wanted: Mapping[str, Any], media: Sequence[str]) -> list[Reject] | None:
    """The rejects of the shard, if it is there, was made as `wanted`, and of just these media."""
    if not shard.exists():
        return None
    try:
        cache = TokenCache([shard], wanted)
    except CacheError as error:
        logger.info("%s: writing it anew", error)
        return None
    if {*cache.media, *cache.rejected} != set(media):
        return None
    return [Reject(name, name, reason) for name, reason in cache.rejected.items()]


def _fill(
    shard: ShardWriter,
    model: Backbone,
    pool: DecodingPool,
    files: Sequence[File],
    settings: Extraction,
    device: torch.device | str,
    before_writing: Callable[[], None],
) -> list[Reject]:
    """Append the tokens of `files` to `shard`; return the rejects."""
    size = settings.batch_size
    batches = [files[i : i + size] for i in range(0, len(files), size)]
    rejects: list[Reject] = []
    progress, clock = Progress(len(files), "extract", "file"), _Clock()
    with ThreadPoolExecutor(max_workers=1) as thread:
        writing: Future[None] = thread.submit(lambda: None)
        for batch in clock.each("waiting for decoding", pool.decode(batches)):
            rejects += batch.rejects
            check_rejects(rejects, len(files), settings.max_reject_fraction, "extraction")
            if batch.media:
                with clock.measure("backbone"), torch.inference_mode():
                    packed = shard.pack(model(batch.inputs.to(device)))
                with clock.measure("waiting for writing"):
                    writing.result()
                writing = thread.submit(shard.add, batch.media, packed)
            progress.advance(len(batch.media) + len(batch.rejects))
            before_writing()
        writing.result()
    shard.rejected |= {reject.media: reject.reason for reject in rejects}
    logger.info("%s", clock.summary(len(files)))
    return rejects


class _Clock:
    """Seconds by stage of a pipeline."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[stage] += time.monotonic() - started

    def each(self, stage: str, items: Iterator[DecodedBatch]) -> Iterator[DecodedBatch]:
        """The items; the time until each is there is that of `stage`."""
        while True:
            with self.measure(stage):
                item = next(items, None)
            if item is None:
                return
            yield item

    def summary(self, count: int) -> str:
        total = time.monotonic() - self.started
        stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in self.seconds.items())
        return f"{count} files in {total:.1f} s, {count / total:.1f} a second; {stages}"
