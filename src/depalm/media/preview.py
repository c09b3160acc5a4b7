"""Media as a browser can show them, small."""

from pathlib import Path

import soundfile

from depalm.media.image import load_image
from depalm.media.sound import load_audio
from depalm.media.video import load_frames

WIDTH = 360  # pixels of the longer side
FRAMES = 4  # of a video
SECONDS, RATE = 10.0, 16_000  # of a sound


def write_preview(source: Path, modality: str, target: Path) -> list[Path]:
    """Write what shows `source`: an image (JPEG), frames of a video (JPEG, from its start to its
    end) or the first seconds of a sound (WAV). `target` is the path without an ending.

    Raises MediaError if the file cannot be read.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if modality == "audio":
        path = target.with_name(target.name + ".wav")
        soundfile.write(path, load_audio(source, RATE, SECONDS), RATE, subtype="PCM_16")
        return [path]
    images = load_frames(source, FRAMES) if modality == "video" else [load_image(source)]
    paths = []
    for i, image in enumerate(images):
        image.thumbnail((WIDTH, WIDTH))
        path = target.with_name(
            f"{target.name}-{i}.jpg" if len(images) > 1 else f"{target.name}.jpg"
        )
        image.save(path, quality=85)
        paths.append(path)
    return paths
