"""Features without a cache: the backbone runs whenever they are read, on files decoded anew, so
that it can be tuned beside the adapter, and no epoch sees an image as another one did.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from depalm.adapters.adapter import Adapter
from depalm.backbones.base import Backbone
from depalm.files import inside
from depalm.media.decoders import load_decoder, view_seed
from depalm.media.pool import DecodingPool, File
from depalm.modes import drop_paths, in_training_mode
from depalm.precision import autocast, on_its_way
from depalm.progress import Progress
from depalm.rejects import MediaError, Reject, check_rejects, report_rejects
from depalm.specs import BackboneSpec

CHECKED = 16  # files that a process checks at a time


@dataclass(frozen=True)
class Media:
    """Where the media files are, under `root`, and how they are decoded: by `workers` processes in
    at most `decode_seconds` each; more than `max_reject_fraction` bad ones end the job.
    """

    root: Path
    workers: int = 1
    decode_seconds: float = 60.0
    max_reject_fraction: float = 0.001


@dataclass(frozen=True)
class Loaded:
    """Decoded `inputs` of distinct files, and the `rows` of them that are asked for."""

    inputs: Tensor
    rows: list[int]


class OnlineFeatures:
    """The tokens of `model` as `adapter` tunes it, of the layers that `adapter` reads; made by
    `online_features`.

    `keys` are the SHA-256 of the files by name. Without a `seed` every epoch reads the clean files.
    With `drop_path` the model leaves out branches at random, as it was trained. It runs in
    `compute` (see `depalm.precision.autocast`).
    `rejected` are the files that `check` found bad, with the reasons.
    """

    def __init__(
        self,
        adapter: Adapter,
        model: Backbone,
        pool: DecodingPool,
        media: Media,
        keys: Mapping[str, str],
        device: torch.device,
        seed: int | None,
        drop_path: bool = False,
        compute: str = "float32",
    ):
        self.adapter, self.model, self.pool = adapter, model, pool
        self.media, self.keys, self.device, self.seed = media, keys, device, seed
        self.dropping = drop_paths(model) if drop_path else ()
        self.compute = compute
        self.rejected: dict[str, str] = {}

    def check(self) -> None:
        """Decode all files once, so that the bad ones can be left out before any is read.

        Raises RejectError if there are more of them than tolerated, DecodingError for one that has
        changed, and OutsideError for one that lies outside of the folder of the media.
        """
        rejects: list[Reject] = []
        files = self._files(list(self.keys), None)
        progress = Progress(len(files), "check", "file")
        for batch in self.pool.decode(_chunks(files, CHECKED)):
            rejects += batch.rejects
            check_rejects(rejects, len(files), self.media.max_reject_fraction, "decoding")
            progress.advance(len(batch.media) + len(batch.rejects))
        report_rejects(rejects, len(files), "decoding")
        self.rejected = {reject.media: reject.reason for reject in rejects}

    def load(self, media: Sequence[str], epoch: int = 0) -> Loaded:
        """B files, decoded; one that occurs twice is decoded once.
        Raises MediaError naming a file that cannot be decoded now, though it could be when it was
        checked.
        """
        names = list(dict.fromkeys(media))
        share = -(-len(names) // self.media.workers)
        decoded = list(self.pool.decode(_chunks(self._files(names, epoch), share)))
        for reject in (reject for batch in decoded for reject in batch.rejects):
            raise MediaError(f"{self.media.root / reject.media}: {reject.reason}")
        inputs = torch.cat([on_its_way(batch.inputs, self.device) for batch in decoded])
        return Loaded(inputs, [names.index(name) for name in media])

    def tokens(self, loaded: Loaded) -> Tensor:
        """The tokens of what was loaded, as the backbone gives them now [B, L, T, D]."""
        tuned = self.adapter.tuned("backbone", self.model)
        with tuned, in_training_mode(self.dropping), autocast(self.compute, self.device):
            layers = self.model.layers(loaded.inputs)
            tokens = torch.stack([layers[i] for i in self.adapter.source_layers], dim=1)
        return tokens[loaded.rows, :, :1] if self.adapter.cls_only else tokens[loaded.rows]

    def _files(self, media: Sequence[str], epoch: int | None) -> list[File]:
        view = 0 if self.seed is None or epoch is None else 1 + epoch
        return [
            File(
                name,
                inside(self.media.root, name),
                view_seed(f"{self.seed}/{name}", view),
                self.keys[name],
            )
            for name in media
        ]


@contextmanager
def online_features(
    adapter: Adapter,
    model: Backbone,
    backbone: BackboneSpec,
    media: Media,
    files: Mapping[str, str],
    device: torch.device,
    seed: int | None = None,
    drop_path: bool = False,
    compute: str = "float32",
) -> Iterator[OnlineFeatures]:
    """The features of `files` (names, each with its SHA-256) by `model`, whose spec is `backbone`;
    it and `adapter` are on `device`.

    With a `seed`, what is read for an epoch is augmented, in a way that depends on file, seed and
    epoch alone. Raises RejectError if more files are bad than tolerated. The processes that decode
    live as long as the context.
    """
    decoder, on_gpu = load_decoder(backbone), device.type == "cuda"
    with DecodingPool(decoder, media.workers, media.decode_seconds, on_gpu) as pool:
        options = (seed, drop_path, compute)
        features = OnlineFeatures(adapter, model, pool, media, files, device, *options)
        features.check()
        yield features


def _chunks(files: Sequence[File], size: int) -> Iterator[Sequence[File]]:
    return (files[i : i + size] for i in range(0, len(files), size))
