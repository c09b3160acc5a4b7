"""Video files -> a few frames as pixels, as they are or augmented (docs/methods.md#media)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from depalm.media.image import ImageDecoder, image_decoder
from depalm.progress import logger
from depalm.rejects import MediaError, require_content, undecodable
from depalm.specs import BackboneSpec

try:
    import decord
except ImportError:  # it has no wheels for ARM and macOS
    decord = None

MISSING = 0.1  # part of its length that a video may end before it says,
SHORT = 1.0  # and seconds (the last frame's among them)
SLACK = 1e-4  # seconds by which rounded times may miss


@dataclass(frozen=True)
class VideoDecoder:
    """Video file -> pixels [frames, 3, H, W], float32, each frame as `image` makes it.

    The video's time is cut into as many segments as frames are wanted, and of each the frame in its
    middle is shown, or with a seed that at a random time; so frame rates may vary, and a video of
    few frames shows them repeatedly. With a seed all frames are augmented alike.
    """

    frames: int
    image: ImageDecoder

    def __call__(self, path: Path, seed: int | None = None) -> Tensor:
        """Raises MediaError."""
        return self.image.pixels(load_frames(path, self.frames, seed), seed)

    def describe(self, with_seed: bool = False) -> dict[str, Any]:
        chosen = "random of each segment" if with_seed else "middle of each segment"
        return {"frames": self.frames, "chosen": chosen, **self.image.describe(with_seed)}


def load_frames(path: Path, count: int, seed: int | None = None) -> list[Image.Image]:
    """`count` frames of a video, in their order, one for each of as many equal spans of time.

    decord reads it; what decord cannot read PyAV does, and the log says so. Raises MediaError: no
    such file, empty, truncated, no video.
    """
    require_content(path)
    spots = np.full(count, 0.5) if seed is None else np.random.default_rng(seed).random(count)
    parts = (np.arange(count) + spots) / count  # of the video's time
    if decord is not None:
        try:
            return _read_with_decord(path, parts)
        except MemoryError:
            raise
        except Exception as error:  # what a decoder raises on broken bytes is anything
            reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            logger.warning("%s: decord cannot read it (%s): trying PyAV", path, reason[0])
    try:
        return _read_with_av(path, parts)
    except (MediaError, MemoryError):
        raise
    except Exception as error:
        raise undecodable(error) from error


def _read_with_decord(path: Path, parts: NDArray[np.float64]) -> list[Image.Image]:
    reader = decord.VideoReader(str(path), num_threads=1)
    starts = np.asarray(reader.get_frame_timestamp(np.arange(len(reader))))[:, 0]  # seconds
    if not (np.isfinite(starts).all() and (np.diff(starts) > 0).all()):
        # such as AVI with B-frames, of which decord gives other frames than those asked for
        raise ValueError("its frames have no times")
    chosen = choose(starts, parts)
    return [Image.fromarray(frame) for frame in reader.get_batch(chosen).asnumpy()]


def _read_with_av(path: Path, parts: NDArray[np.float64]) -> list[Image.Image]:
    """Decodes all frames twice, to know their times and to keep just those that are wanted."""
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise MediaError("it has no video")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        times = [frame.time for frame in container.decode(stream)]
        stated = float((stream.duration or 0) * (stream.time_base or 0))  # 0 where it is not said
    if not times:
        raise MediaError("it has no frame")
    if None in times or not (np.diff(times) > 0).all():
        starts = np.arange(len(times), dtype=float)  # all frames as long as each other
    else:
        starts = np.array(times)
        length = starts[-1] - starts[0]
        if length < (1 - MISSING) * stated - SHORT:
            raise MediaError(f"truncated: {length:.1f} of {stated:.1f} s are there")
    wanted = choose(starts, parts)
    images = {}
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for i, frame in enumerate(container.decode(video=0)):
            if i in wanted:
                image = Image.fromarray(frame.to_ndarray(format="rgb24"))
                images[i] = image.rotate(frame.rotation, expand=True)  # as decord does
    return [images[i] for i in wanted]


def choose(starts: NDArray[np.float64], parts: NDArray[np.float64]) -> list[int]:
    """Frames shown at `parts` (within 0..1) of a video's time, given when each one starts; the last
    is as long as the one before.
    """
    last = starts[-1] - starts[-2] if len(starts) > 1 else 0.0
    times = starts[0] + parts * (starts[-1] + last - starts[0])
    return (np.searchsorted(starts, times + SLACK, side="right") - 1).tolist()


def video_decoder(spec: BackboneSpec) -> VideoDecoder:
    """The decoder of a backbone that takes videos."""
    return VideoDecoder(image=image_decoder(spec), **spec.take("frames"))
