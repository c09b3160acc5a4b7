"""Video files -> a few frames as pixels, as they are or augmented (docs/methods.md#media)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from depalm.media.frames import read_frames
from depalm.media.image import GEOMETRY, ImageDecoder, cropped, image_decoder
from depalm.specs import BackboneSpec

SLACK = 1e-4  # seconds by which rounded times may miss


@dataclass(frozen=True)
class VideoDecoder:
    """Video file -> pixels [frames, 3, H, W], float32, normalised as `image` does it.

    The video's time is cut into as many segments as frames are wanted, and of each the frame in its
    middle is shown; so frame rates may vary, and a video of few frames shows them repeatedly. With
    a seed it is one at a random time of the segment, but not the segment's last frame, and all
    frames are augmented alike: crop and flip as an image, then torchvision's RandAugment with its
    defaults.
    """

    frames: int
    image: ImageDecoder
    reader: str = "pyav"

    def __call__(self, path: Path, seed: int | None = None) -> Tensor:
        """Raises MediaError."""
        frames = load_frames(path, self.frames, seed, self.reader)
        if seed is None:
            return self.image.pixels(frames, None)
        return self.image.normalised(augmented(frames, self.image.image_size, seed))

    def describe(self, with_seed: bool = False) -> dict[str, Any]:
        described = {"frames": self.frames, "reader": self.reader, **self.image.clean()}
        if not with_seed:
            return {**described, "chosen": "middle of each segment"}
        chosen = "random of each segment but its last"
        return {**described, "chosen": chosen, **GEOMETRY, "operations": "RandAugment"}


def load_frames(
    path: Path, count: int, seed: int | None = None, reader: str = "pyav"
) -> list[Image.Image]:
    """`count` frames of a video, in their order, one for each of as many equal spans of time.

    PyAV reads it, or decord if it is the `reader` and can: what it cannot read PyAV does, and the
    log says so. Raises MediaError: no such file, empty, truncated, no video.
    """
    spots = None if seed is None else np.random.default_rng(seed).random(count)

    def wanted(starts: NDArray[np.float64]) -> list[int]:
        return choose(starts, count, spots)

    return read_frames(path, wanted, with_decord=reader == "decord")


def choose(
    starts: NDArray[np.float64], count: int, spots: NDArray[np.float64] | None = None
) -> list[int]:
    """A frame for each of `count` equal segments of a video's time, given when its frames start;
    the last is as long as the one before.

    It is the frame that is shown in the middle of the segment; or that at a place within 0..1 of
    the segment without its last frame.
    """
    last = starts[-1] - starts[-2] if len(starts) > 1 else 0.0
    edges = np.linspace(starts[0], starts[-1] + last, count + 1)
    if spots is None:
        return shown(starts, (edges[:-1] + edges[1:]) / 2)
    ends = [starts[i] for i in shown(starts, edges[1:] - 2 * SLACK)]  # when the last frames start
    lengths = np.maximum(np.array(ends) - 2 * SLACK - edges[:-1], 0)
    return shown(starts, edges[:-1] + spots * lengths)


def shown(starts: NDArray[np.float64], times: NDArray[np.float64]) -> list[int]:
    """The frame that is shown at each of the times (seconds), given when the frames start."""
    found: list[int] = (np.searchsorted(starts, times + SLACK, side="right") - 1).clip(0).tolist()
    return found


def augmented(frames: Sequence[Image.Image], size: int, seed: int) -> list[Image.Image]:
    """The frames as squares of `size` pixels, all cropped, flipped and changed alike; no other
    random numbers of the process change.
    """
    from torchvision.transforms import v2  # a second of every job that augments nothing

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        squares = torch.from_numpy(np.stack([np.asarray(s) for s in cropped(frames, size)]))
        # [F, H, W, 3] -> [F, 3, H, W]: one draw for all frames
        changed = v2.RandAugment()(squares.permute(0, 3, 1, 2))
    return [Image.fromarray(frame) for frame in changed.permute(0, 2, 3, 1).numpy()]


def video_decoder(spec: BackboneSpec) -> VideoDecoder:
    """The decoder of a backbone that takes videos."""
    reader = spec.video_reader or "pyav"
    return VideoDecoder(image=image_decoder(spec), reader=reader, **spec.take("frames"))
