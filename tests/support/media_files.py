"""Media files that tests write, and where real ones lie; what writes films and sounds is imported
where they are written.
"""

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

SHARED = Path(os.environ.get("DEPALM_SHARED", Path(__file__).parents[3] / "shared/data"))
CASES = SHARED.parent / "cases"  # media that were read wrongly once
MILLISECONDS = Fraction(1, 1000)


def shared(folder: str, pattern: str) -> list[Path]:
    """Real files; the test is skipped where there are none."""
    files = sorted((SHARED / folder).glob(pattern))
    if not files:
        pytest.skip(f"{SHARED / folder} has no {pattern}: set DEPALM_SHARED to the shared data")
    return files


def case(name: str) -> Path:
    """A file that was read wrongly once; the test is skipped where it is not there."""
    path = CASES / name
    if not path.is_file():
        pytest.skip(f"{path} is not there: set DEPALM_SHARED to the shared data")
    return path


def write_images(root: Path, names: Sequence[str]) -> None:
    """Images of 4 x 4 pixels in random colours, the same every time."""
    random = np.random.default_rng(0)
    for name in names:
        (root / name).parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(root / name)


def grey(frame: int) -> int:
    """The grey value of a frame of `write_video`."""
    return 40 + 4 * frame


FORMATS = {"mjpeg": "yuvj420p"}


def write_video(path: Path, times: Sequence[float], codec: str = "libx264", **options: Any) -> Path:
    """A video of 64 x 48 pixels; frame i is shown from times[i] (seconds) on, and is grey(i) with
    a pattern of that mean.
    """
    import av

    blocks = np.indices((6, 8)).sum(axis=0) % 2 * 16 - 8  # 8 below and above
    pattern = np.kron(blocks, np.ones((8, 8), int))[:, :, None].repeat(3, axis=2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, FORMATS.get(codec, "yuv420p")
        if codec == "libx264":
            stream.codec_context.time_base = MILLISECONDS
        for i, time in enumerate(times):
            pixels = (grey(i) + pattern).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), MILLISECONDS
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path, samples: NDArray[Any], rate: int, container: str | None = None) -> Path:
    """AAC in an MP4 file (or another container), which libsndfile cannot read."""
    import av

    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream("aac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            samples.astype(np.float32)[None], format="fltp", layout="mono"
        )
        frame.rate = rate
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path
