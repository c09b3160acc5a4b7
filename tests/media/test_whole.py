"""Files whose end is missing are rejected, whatever their container; files that do not say how long
they are are read whole.
"""

import io
import struct
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from depalm.media.sound import load_audio
from depalm.media.video import load_frames
from depalm.media.whole import require_whole
from depalm.rejects import MediaError
from tests.support.media_files import case, write_video

SECONDS, RATE = 6, 48000
SOUNDS = [
    ("sound.webm", "libopus"),
    ("sound.mka", "libopus"),
    ("sound.mkv", "pcm_s16le"),
    ("sound.ogg", "libopus"),
    ("sound.opus", "libopus"),
    ("sound.flv", "aac"),
    ("sound.avi", "pcm_s16le"),
    ("sound.mp4", "aac"),
    ("sound.m4a", "aac"),
    ("sound.wav", "pcm_s16le"),
    ("sound.flac", "flac"),
    ("sound.mp3", "libmp3lame"),
]
FILMS = [
    ("film.webm", "libvpx-vp9"),
    ("film.mkv", "libx264"),
    ("film.flv", "libx264"),
    ("film.avi", "mpeg4"),
    ("film.mp4", "libx264"),
    ("film.mov", "libx264"),
]


def noise() -> NDArray[np.float32]:
    """In two seconds it gets louder twice."""
    samples = np.random.default_rng(0).normal(0, 0.1, SECONDS * RATE).astype(np.float32)
    return samples * np.repeat([0.2, 1.0, 3.0], 2 * RATE).astype(np.float32)


def encoded(
    target: Path | io.RawIOBase, codec: str, container: str | None = None, **options: str
) -> None:
    """The noise in a file, or written to a pipe."""
    file = str(target) if isinstance(target, Path) else target
    with av.open(file, "w", format=container, options=options) as output:  # type: ignore[call-overload]
        stream = output.add_stream(codec, rate=RATE, layout="mono")
        convert = av.AudioResampler(stream.format.name, "mono", RATE)
        frame = av.AudioFrame.from_ndarray(noise()[None], format="fltp", layout="mono")
        frame.rate = RATE
        for piece in convert.resample(frame) + convert.resample(None):
            output.mux(stream.encode(piece))
        output.mux(stream.encode())


class Pipe(io.RawIOBase):
    """What is written goes to a file, and nobody can go back in it."""

    def __init__(self, path: Path):
        self.file = path.open("wb")

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, content: bytes) -> int:  # type: ignore[override]
        return self.file.write(content)

    def close(self) -> None:
        self.file.close()


def cut(path: Path, part: float) -> Path:
    content = path.read_bytes()
    shorter = path.with_name(f"cut-{part}-{path.name}")
    shorter.write_bytes(content[: int(len(content) * part)])
    return shorter


@pytest.mark.parametrize(("name", "codec"), SOUNDS)
def test_a_sound_without_its_end_is_rejected(tmp_path: Path, name: str, codec: str) -> None:
    path = tmp_path / name
    encoded(path, codec)
    assert len(load_audio(path, 16000, 30)) == pytest.approx(16000 * SECONDS, abs=3000)
    # also where all that is asked for is there
    for part in (0.5, 0.8, 0.97):
        for seconds in (30, 1):
            with pytest.raises(MediaError, match=r"truncated|decoded|no sound"):
                load_audio(cut(path, part), 16000, seconds)


@pytest.mark.parametrize(("name", "codec"), FILMS)
def test_a_film_without_its_end_is_rejected(tmp_path: Path, name: str, codec: str) -> None:
    path = write_video(tmp_path / name, np.arange(50) / 25, codec)
    assert len(load_frames(path, 4)) == 4
    for part in (0.5, 0.8, 0.97):
        with pytest.raises(MediaError, match="truncated"):
            load_frames(cut(path, part), 4)


@pytest.mark.parametrize(
    ("container", "codec"),
    [("webm", "libopus"), ("matroska", "pcm_s16le"), ("ogg", "libopus"), ("flac", "flac")],
)
def test_what_was_written_to_a_pipe_is_read_whole(
    tmp_path: Path, container: str, codec: str
) -> None:
    """Its header says nothing of how long it is."""
    path = tmp_path / "sound"
    with Pipe(path) as pipe:
        encoded(pipe, codec, container)
    sound = load_audio(path, 16000, 30)
    assert len(sound) == pytest.approx(16000 * SECONDS, abs=3000)
    loudness = [sound[i * 16000 : (i + 1) * 16000].std() for i in (0, 5)]
    assert loudness[1] > 10 * loudness[0]
    parts = [load_audio(path, 16000, 1, seed).std() for seed in range(12)]
    assert max(parts) > 10 * min(parts)  # from its start to its end


def test_mp3_without_a_header_of_its_length_is_read_whole(tmp_path: Path) -> None:
    """A variable bit rate, of which readers guess the length by the first frames."""
    bare, headed = tmp_path / "bare.mp3", tmp_path / "headed.mp3"
    encoded(bare, "libmp3lame", "mp3", write_xing="0")
    encoded(headed, "libmp3lame", "mp3")
    twice = tmp_path / "twice.mp3"
    twice.write_bytes(headed.read_bytes() * 2)
    for path, seconds in ((bare, SECONDS), (headed, SECONDS), (twice, 2 * SECONDS)):
        assert len(load_audio(path, 16000, 60)) == pytest.approx(16000 * seconds, abs=3000)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_wav_without_sizes_is_read_whole(tmp_path: Path, size: int) -> None:
    path = tmp_path / "sound.wav"
    soundfile.write(path, noise(), RATE)
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[4:8] = content[place : place + 4] = struct.pack("<I", size)
    path.write_bytes(content)
    assert len(load_audio(path, 16000, 30)) == pytest.approx(16000 * SECONDS, abs=10)


def test_wav_whose_chunk_is_longer_than_the_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    soundfile.write(path, noise(), RATE)
    content = bytearray(path.read_bytes()[: RATE * SECONDS])
    content[4:8] = struct.pack("<I", len(content) - 8)  # as a careless repair has it
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"truncated: 287956 of 576000 bytes are there"):
        load_audio(path, 16000, 1)


def test_what_libsndfile_cannot_read_is_tried_by_pyav(tmp_path: Path) -> None:
    """Whatever it says of it: FLAC whose header has no length."""
    path = tmp_path / "sound.flac"
    soundfile.write(path, noise(), RATE)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the number of samples, 36 bits
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert len(load_audio(path, 16000, 30)) == 16000 * SECONDS


@pytest.mark.parametrize(
    ("name", "seconds"),
    [("audio/pipe.mp3", 10.0), ("audio/pipe.flac", 3.0), ("audio/half_a.webm", None)],
)
def test_sounds_that_were_read_wrongly(name: str, seconds: float | None) -> None:
    path = case(name)
    if seconds is None:
        with pytest.raises(MediaError, match="truncated"):
            load_audio(path, 16000, 30)
    else:
        assert len(load_audio(path, 16000, 30)) == pytest.approx(16000 * seconds, abs=1600)


@pytest.mark.parametrize("name", ["half_b.webm", "half_d.flv", "half_e.avi"])
def test_films_that_were_read_wrongly(name: str) -> None:
    path = case(f"video/{name}")
    with pytest.raises(MediaError, match="truncated"):
        load_frames(path, 5)


@pytest.mark.parametrize("name", ["head", "RIFF", "OggS", "FLV", "ID3", "ebml", "ftyp"])
def test_damaged_headers_are_told_from_nothing_but_themselves(tmp_path: Path, name: str) -> None:
    """No check fails otherwise than by MediaError, however few bytes there are."""
    starts = {
        "head": b"\x00",
        "RIFF": b"RIFF\x10\x00",
        "OggS": b"OggS\x00\x02",
        "FLV": b"FLV\x01",
        "ID3": b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f",
        "ebml": b"\x1a\x45\xdf\xa3\x01",
        "ftyp": b"\x00\x00\x00\x01ftyp",
    }
    for tail in (b"", b"\x00", b"\xff" * 9, bytes(100)):
        path = tmp_path / name
        path.write_bytes(starts[name] + tail)
        with suppress(MediaError):
            require_whole(path)
