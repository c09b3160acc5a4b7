"""The frames of a video file, by when they are shown: PyAV, and decord where it is asked for."""

from collections.abc import Callable, Collection, Iterable
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from depalm.media.whole import require_whole
from depalm.progress import logger
from depalm.rejects import MediaError, require_content, undecodable

try:
    import decord
except ImportError:  # it has no wheels for ARM and macOS
    decord = None

MISSING = 0.1  # part of its length that a video may end before it says,
LARGEST = 8192 * 8192  # pixels of a frame
SHORT = 1.0  # and seconds (the last frame's among them)

Chooser = Callable[[NDArray[np.float64]], list[int]]  # when frames start, in seconds -> which ones


def read_frames(path: Path, choose: Chooser, with_decord: bool = False) -> list[Image.Image]:
    """The frames that `choose` chooses, upright, given when each of them is first shown.

    Edit lists are followed. Raises MediaError: no such file, empty, truncated, no video.
    """
    require_content(path)
    require_whole(path)
    if with_decord and decord is None:
        logger.warning("%s: decord is not installed: trying PyAV", path)
    elif with_decord:
        try:
            return _read_with_decord(path, choose)
        except MemoryError:
            raise
        except Exception as error:  # what a decoder raises on broken bytes is anything
            reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            logger.warning("%s: decord cannot read it (%s): trying PyAV", path, reason[0])
    try:
        return _read_with_av(path, choose)
    except (MediaError, MemoryError):
        raise
    except Exception as error:
        raise undecodable(error) from error


def _read_with_av(path: Path, choose: Chooser) -> list[Image.Image]:
    """One pass looks when the frames are shown, without decoding them; a second one decodes, and if
    they are shown at other times than that, as with fields that are packets, a third.
    """
    stated, packets = _packet_times(path)
    times, images = _decode(path, set(choose(packets)) if len(packets) else ())
    if not times:
        raise MediaError("it has no frame")
    starts = _starts(times)
    if len(starts) != len(packets) or np.abs(starts - packets).max() > 1e-6:
        _, images = _decode(path, set(choose(starts)))
    length = starts[-1] - starts[0]
    if None not in times and length < (1 - MISSING) * stated - SHORT:
        raise MediaError(f"truncated: {length:.1f} of {stated:.1f} s are there")
    return [images[i] for i in choose(starts)]


def _packet_times(path: Path) -> tuple[float, NDArray[np.float64]]:
    """How long the video says to be (0 where it does not), and when its packets are shown."""
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise MediaError("it has no video")
        stream = container.streams.video[0]
        if stream.width * stream.height > LARGEST:
            raise MediaError(f"frames of {stream.width} x {stream.height} pixels are too large")
        stated = float((stream.duration or 0) * (stream.time_base or 0))
        packets = [
            packet for packet in container.demux(stream) if packet.size and not packet.is_discard
        ]
        times = [
            None if p.pts is None or p.time_base is None else float(p.pts * p.time_base)
            for p in packets
        ]
    return stated, _starts(sorted(times) if None not in times else times)  # type: ignore[type-var]


def _decode(
    path: Path, wanted: Collection[int]
) -> tuple[list[float | None], dict[int, Image.Image]]:
    """When every frame is shown, and the frames that are wanted."""
    times: list[float | None] = []
    images = {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for i, frame in enumerate(container.decode(stream)):
            times.append(frame.time)
            if i in wanted:
                image = Image.fromarray(frame.to_ndarray(format="rgb24"))
                images[i] = image.rotate(frame.rotation, expand=True)
    return times, images


def _starts(times: Iterable[float | None]) -> NDArray[np.float64]:
    """When frames start; without times that rise all are as long as each other."""
    found = list(times)
    known = [time for time in found if time is not None]
    if len(known) < len(found) or any(later <= time for time, later in pairwise(known)):
        return np.arange(len(found), dtype=float)
    return np.array(known)


def _read_with_decord(path: Path, choose: Chooser) -> list[Image.Image]:
    reader = decord.VideoReader(str(path), num_threads=1)
    starts = np.asarray(reader.get_frame_timestamp(np.arange(len(reader))))[:, 0]  # seconds
    if not (np.isfinite(starts).all() and (np.diff(starts) > 0).all()):
        # such as AVI with B-frames, of which decord gives other frames than those asked for
        raise ValueError("its frames have no times")
    _, packets = _packet_times(path)
    if len(packets) != len(starts) or np.abs(starts - packets).max() > 1e-3:
        raise ValueError("it has other frames than the file")
    chosen = choose(starts)
    frames = reader.get_batch(chosen).asnumpy()  # [F, H, W, 3]
    pictures = [frame.tobytes() for frame in dict(zip(chosen, frames, strict=True)).values()]
    if len(set(pictures)) < len(pictures) or any(frame.max() == frame.min() for frame in frames):
        raise ValueError("frames are empty, or the same as others")
    return [Image.fromarray(frame) for frame in frames]
