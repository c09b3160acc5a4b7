"""The samples of a sound file: libsndfile, and PyAV for what that cannot read."""

import math
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from depalm.media.whole import require_whole
from depalm.rejects import MediaError, require_content, undecodable

Waveform = NDArray[np.float32]  # [samples], within -1..1

SHORTEST = 0.025  # seconds: one window of a spectrogram
LONGEST = 6 * 3600  # seconds that are held in memory, of which a part is wanted
MISSING = 0.1  # seconds that a file may end before it says
UNMEASURED = {"mp3", "aac", "ac3", "eac3", "dts", "amr"}  # have no header with their length
TOLERATED = 0.02  # part of their packets that may be something else


def load_audio(path: Path, sampling_rate: int, seconds: float, seed: int | None = None) -> Waveform:
    """At most `seconds` of the recording, in mono (the mean of its channels), at `sampling_rate`.

    Taken from its start, or with a seed from anywhere. The format is told from the content, not
    from the name: what libsndfile cannot read (AAC, the sound of a video) PyAV does. Raises
    MediaError: no such file, empty, truncated, no audio, shorter than 25 ms, or samples that are
    not finite.
    """
    require_content(path)
    require_whole(path)
    try:
        samples, rate = _read(path, seconds, seed)
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # what a decoder raises on broken bytes is anything
        raise undecodable(error) from error
    if len(samples) < SHORTEST * rate:
        raise MediaError(f"{len(samples)} samples at {rate} Hz are too short a sound")
    if not np.isfinite(samples).all():
        raise MediaError("it has samples that are not finite")
    mono = samples.mean(axis=1, dtype=np.float32)
    if rate != sampling_rate:
        mono = soxr.resample(mono, rate, sampling_rate)
    return mono[: round(seconds * sampling_rate)]


def _read(path: Path, seconds: float, seed: int | None) -> tuple[Waveform, int]:
    """The part of the file that is wanted [samples, channels], and its rate.

    libsndfile reads it, and PyAV what that cannot read, and MP3: libsndfile guesses how long a file
    without a header of its length is.
    """
    try:
        with soundfile.SoundFile(path) as sound:
            if sound.format != "MP3" and sound.frames:
                total, rate = sound.frames, sound.samplerate
                start, count = _part(total, rate, seconds, seed)
                sound.seek(start)
                samples = sound.read(count, dtype="float32", always_2d=True)
                _require_whole(len(samples), count, rate)
                _require_last(sound)
                return samples, rate
    except soundfile.SoundFileError:
        pass  # PyAV says what is wrong with it, if it cannot read it either
    return _read_with_av(path, seconds, seed)


def _read_with_av(path: Path, seconds: float, seed: int | None) -> tuple[Waveform, int]:
    """Decodes all of the file if any part of it may be wanted: few containers say how long they
    are to the sample.
    """
    with av.open(str(path)) as container:
        if not container.streams.audio:
            raise MediaError("it has no sound")
        stream = container.streams.audio[0]
        rate = stream.rate
        # 0 where it is not said, or guessed from the bit rate
        guessed = container.format.name in UNMEASURED
        stated = 0 if guessed else float((stream.duration or 0) * (stream.time_base or 0))
        needed = math.ceil(seconds * rate) if seed is None else math.inf
        to_float = av.AudioResampler(format="fltp")
        chunks: list[Waveform] = []
        held = 0
        for frame in _decode(container, stream, lenient=guessed):
            for piece in to_float.resample(frame):
                chunks.append(np.asarray(piece.to_ndarray(), np.float32))
                held += piece.samples
            if held >= needed:
                break
            if held > LONGEST * rate:
                raise MediaError(f"it is longer than {LONGEST // 3600} hours")
    if not chunks:
        raise MediaError("it has no sound")
    _require_whole(held, round(min(stated * rate, needed)), rate)
    start, count = _part(held, rate, seconds, seed)
    # [channels, samples] -> [samples, channels]
    return np.concatenate(chunks, axis=1).T[start : start + count], rate


def _decode(
    container: av.container.InputContainer, stream: av.AudioStream, lenient: bool
) -> Iterator[av.AudioFrame]:
    """The frames of a stream; if `lenient`, without a few that cannot be decoded, such as the tags
    in the middle of MP3 files laid end to end.
    """
    bad = 0
    for number, packet in enumerate(container.demux(stream), start=1):
        try:
            yield from packet.decode()
        except av.error.InvalidDataError:
            bad += 1
            if not lenient or bad > 1 + TOLERATED * number:
                raise


def _part(total: int, rate: int, seconds: float, seed: int | None) -> tuple[int, int]:
    """First sample and number of samples of the part that is wanted of `total`."""
    count = min(total, math.ceil(seconds * rate))
    if seed is None:
        return 0, count
    return int(np.random.default_rng(seed).integers(total - count + 1)), count


def _require_last(sound: soundfile.SoundFile) -> None:
    try:
        sound.seek(sound.frames - 1)
        there = len(sound.read(1))
    except soundfile.SoundFileError:
        there = 0
    if not there:
        raise MediaError("truncated: its last sample is missing")


def _require_whole(found: int, stated: int, rate: int) -> None:
    if stated - found > MISSING * rate:
        raise MediaError(f"truncated: {found / rate:.1f} of {stated / rate:.1f} s are there")
