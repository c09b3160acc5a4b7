"""Extraction: media files -> tokens of a frozen backbone in the token store.

What the store has is not made again. Worker processes decode the next batches while the backbone
works on this one and a thread writes the last. Every batch that the backbone sees has its full
size, the last one padded, so that a row is the same bytes whatever else was extracted with it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from depalm.backbones.base import Backbone
from depalm.batch_size import fitting
from depalm.cache.formats import FORMATS, in_units, predicted_bytes
from depalm.cache.reader import TokenCache
from depalm.cache.store import Claims, open_folder, shard_name
from depalm.cache.writer import ShardWriter, require_disk, write_shard
from depalm.errors import DepalmError
from depalm.features.encoder import Encoder
from depalm.files import inside
from depalm.lease import LeaseLost
from depalm.media.decoders import load_decoder, view_seed
from depalm.media.pool import DecodedBatch, DecodingPool, File
from depalm.precision import on_its_way
from depalm.progress import Clock, Progress, logger
from depalm.rejects import Reject, check_rejects, report_rejects

LARGEST_BATCH = 256  # of `batch_size: auto`: a GPU is busy with less
PROBED = 16  # files that are tried until one can be decoded
SHARD_BYTES = 2**31  # a shard is ended at this size: a killed job loses no more


class ExtractionError(DepalmError):
    """An invalid shard number."""


@dataclass(frozen=True)
class Extraction:
    """How tokens are extracted: `batch_size` files at a time ("auto": as many as fit), decoded by
    `workers` processes in at most `decode_seconds` each, into shards of `format`; more than
    `max_reject_fraction` bad files of the split end the job.
    """

    format: str = "zarr"
    batch_size: int | str = "auto"
    workers: int = 1
    decode_seconds: float = 60.0
    max_reject_fraction: float = 0.001


@dataclass(frozen=True)
class Extracted:
    """What an extraction did: in the store's `folder`, so many media went through the backbone."""

    folder: Path
    forwarded: int
    rejects: list[Reject] = field(default_factory=list)


def media_of_shard(media: Sequence[str], shard: int, shards: int) -> list[str]:
    """Part number `shard` (from 0) of `shards` runs of nearly equal length.

    It is empty where there are more parts than media.
    """
    if not 0 <= shard < shards:
        raise ExtractionError(f"there is no shard {shard} of {shards}: they count from 0")
    return list(media[shard * len(media) // shards : (shard + 1) * len(media) // shards])


def extract(
    encoder: Encoder,
    root: Path,
    media: Mapping[str, str],
    arrays: Sequence[str],
    store: Path,
    settings: Extraction,
    device: torch.device | str,
    split_size: int | None = None,
) -> Extracted:
    """Put the rows of `media` (paths under `root`, each with the SHA-256 of its file) in some
    arrays into the store, as far as it lacks them.

    The backbone is loaded only if there is something to do. Rows that another job is working on are
    waited for. `split_size` counts the media of the split that these are a part of, for the
    tolerance. Raises RejectError as soon as more files are bad than tolerated, CacheError if the
    disk is too small, BackboneError, DecodingError (also for a file that has changed), and
    OutsideError for media that lie outside of `root`.
    """
    size = len(media) if split_size is None else split_size
    folder = encoder.folder(store)
    job = _Job(encoder, root, media, list(arrays), folder, settings, device, size)
    claims, forwarded = Claims(folder), 0
    while True:
        with claims.claimed(lambda: job.missing(job.open())) as (mine, busy, held):
            try:
                forwarded += job.fill(mine, held.check)
            except LeaseLost as error:
                logger.warning("%s: looking at what is there", error)
                continue
        for claim in busy:
            claims.wait(claim)
        cache = job.open()
        if not job.missing(cache):
            break
    logger.info(
        "%d of %d files went through the backbone, %d were in the store",
        forwarded,
        len(media),
        len(media) - forwarded,
    )
    rejects = [
        Reject(name, name, cache.rejected[key].reason)
        for name, key in media.items()
        if key in cache.rejected
    ]
    check_rejects(rejects, size, settings.max_reject_fraction, "extraction")
    report_rejects(rejects, size, "extraction")
    return Extracted(job.folder, forwarded, rejects)


@dataclass
class _Job:
    """The media of an extraction, and where their rows go."""

    encoder: Encoder
    root: Path
    media: Mapping[str, str]
    arrays: list[str]
    folder: Path
    settings: Extraction
    device: torch.device | str
    split_size: int

    def __post_init__(self) -> None:
        self.names: dict[str, str] = {}
        for name, key in self.media.items():
            self.names.setdefault(key, name)
        self.metadata = self.encoder.identity
        self.rejects: list[Reject] = []
        self.model: Backbone | None = None
        self.size = 0

    def open(self) -> TokenCache:
        return open_folder(self.folder, self.metadata)

    def missing(self, cache: TokenCache) -> dict[str, list[str]]:
        """The media whose rows the store lacks, by key, with the arrays.

        A file whose decoding took longer than it may take now is tried again.
        """
        found = {}
        for key in self.names:
            why = cache.rejected.get(key)
            if why is not None and (why.limit is None or why.limit >= self.settings.decode_seconds):
                continue
            if lacks := cache.missing(key, self.arrays):
                found[key] = lacks
        return found

    def fill(self, keys: Sequence[str], before_writing: Callable[[], None]) -> int:
        """Extract the rows of `keys` that the store lacks, in one shard for each set of arrays, or
        several large ones; the number of files that the backbone saw.
        """
        lacks = self.missing(self.open())
        groups: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
        for key in keys:
            if key in lacks:
                groups[tuple(lacks[key])].append(key)
        if not groups:
            return 0
        shape, known = self.encoder.spec.shape.given(), FORMATS[self.settings.format]
        sizes = {group: sum(predicted_bytes(known, 1, shape, group).values()) for group in groups}
        needed = sum(sizes[arrays] * len(of) for arrays, of in groups.items())
        count = sum(map(len, groups.values()))
        logger.info("%s: %d files, %s", self.folder, count, in_units(needed))
        require_disk(self.folder / "shard", needed)
        self.model = self.model or self.encoder.load(self.device)
        progress, clock, bad = Progress(count, "extract", "file"), Clock(), len(self.rejects)
        pool = DecodingPool(
            load_decoder(self.encoder.spec),
            self.settings.workers,
            self.settings.decode_seconds,
            pin_memory=torch.device(self.device).type == "cuda",
        )
        with pool:
            self.size = self.size or self.batch_size(self.model, pool, next(iter(groups.values())))
            for arrays, of in groups.items():
                length = max(1, SHARD_BYTES // sizes[arrays])
                for part in (of[i : i + length] for i in range(0, len(of), length)):
                    suffix = known.suffix
                    path = self.folder / f"{shard_name(arrays, part)}{suffix}"
                    batches = clock.each(
                        "waiting for decoding", pool.decode(self.batches(part, self.size))
                    )
                    with write_shard(
                        path, self.metadata, self.model.shape, arrays, self.encoder.dtype
                    ) as shard:
                        self.append(shard, self.model, batches, clock, progress, before_writing)
        logger.info("%s", clock.summary(count))
        return count - (len(self.rejects) - bad)

    def batches(self, keys: Sequence[str], size: int) -> list[list[File]]:
        view = self.encoder.view
        paths = [inside(self.root, self.names[key]) for key in keys]
        files = [
            File(key, path, view_seed(key, view), key)
            for key, path in zip(keys, paths, strict=True)
        ]
        return [files[i : i + size] for i in range(0, len(files), size)]

    def batch_size(self, model: Backbone, pool: DecodingPool, keys: Sequence[str]) -> int:
        """The files that go through the backbone at a time; the memory of one tells."""

        def run(count: int) -> None:
            decoded = pool.decode(self.batches(keys[:PROBED], 1))
            one = next((batch.inputs for batch in decoded if batch.media), None)
            if one is not None:
                self.encoder.tokens(model, padded(one.to(self.device), count))

        return fitting(self.settings.batch_size, LARGEST_BATCH, run, self.device)

    def append(
        self,
        shard: ShardWriter,
        model: Backbone,
        batches: Iterator[DecodedBatch],
        clock: Clock,
        progress: Progress,
        before_writing: Callable[[], None],
    ) -> None:
        """Append the tokens of decoded files to `shard`; note the rejects."""
        device = torch.device(self.device)
        with ThreadPoolExecutor(max_workers=1) as thread:
            writing: Future[None] = thread.submit(lambda: None)
            for batch in batches:
                for reject in batch.rejects:
                    name = self.names[reject.id]
                    self.rejects.append(Reject(name, name, reject.reason))
                    shard.rejected[reject.id] = (reject.reason, reject.limit)
                tolerated = self.settings.max_reject_fraction
                check_rejects(self.rejects, self.split_size, tolerated, "extraction")
                if batch.media:
                    with clock.measure("backbone"):
                        inputs = padded(on_its_way(batch.inputs, device), self.size)
                        layers = self.encoder.tokens(model, inputs)
                        packed = shard.pack([tokens[: len(batch.media)] for tokens in layers])
                    with clock.measure("waiting for writing"):
                        writing.result()
                    writing = thread.submit(shard.add, batch.media, packed)
                progress.advance(len(batch.media) + len(batch.rejects))
                before_writing()
            writing.result()


def padded(inputs: Tensor, size: int) -> Tensor:
    """Inputs [B, ...] -> [size, ...]: the last one stands in for those that are missing."""
    if len(inputs) == size:
        return inputs
    return torch.cat([inputs, inputs[-1:].expand(size - len(inputs), *inputs.shape[1:])])
