"""Decoding of audio: any format, rate and number of channels become the same mono sound."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import ASTFeatureExtractor, WhisperFeatureExtractor

from depalm.media.audio import FbankDecoder, LogMelDecoder, WaveformDecoder
from depalm.media.sound import load_audio
from depalm.rejects import MediaError
from tests.support.media_files import shared, write_sound, write_video

ZERO = (0 - -4.2677393) / (2 * 4.5689974)  # an energy of zero, normalised


def tone(rate: int, seconds: float = 1.0, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def written(path: Path, samples: np.ndarray, rate: int, **options: Any) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


def noise(path: Path, seconds: float, rate: int = 16000) -> Path:
    samples = np.random.default_rng(0).normal(0, 0.1, round(seconds * rate))
    return written(path, samples, rate, subtype="FLOAT")


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_any_rate_and_channels_become_the_same_tone(
    tmp_path: Path, rate: int, channels: int
) -> None:
    samples = np.repeat(tone(rate)[:, None], channels, axis=1)
    sound = load_audio(written(tmp_path / "sound.wav", samples, rate), 16000, 10)
    assert sound.shape == (16000,)
    assert sound.dtype == np.float32
    np.testing.assert_allclose(sound[800:-800], tone(16000)[800:-800], atol=0.01)


def test_mono_is_the_mean_of_the_channels(tmp_path: Path) -> None:
    samples = np.stack([tone(16000), 0 * tone(16000)], axis=1)
    sound = load_audio(written(tmp_path / "sound.wav", samples, 16000), 16000, 10)
    np.testing.assert_allclose(sound, tone(16000) / 2, atol=1e-3)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("wav", {"subtype": "PCM_U8"}),
        ("wav", {"subtype": "PCM_24"}),
        ("wav", {"subtype": "DOUBLE"}),
        ("flac", {}),
        ("ogg", {}),
        ("mp3", {}),
    ],
)
def test_formats_are_told_from_the_content(
    tmp_path: Path, suffix: str, options: dict[str, str]
) -> None:
    path = written(tmp_path / f"sound.{suffix}", tone(16000), 16000, **options)
    for name in ("sound.wav", "sound.jpg"):
        path = path.rename(tmp_path / name)
        sound = load_audio(path, 16000, 10)
        assert abs(len(sound) - 16000) < 2500  # MP3 pads
        middle = sound[4000:12000]
        assert np.abs(np.fft.rfft(middle)).argmax() == 220  # 440 Hz in half a second
        assert 0.3 < np.abs(middle).max() < 0.6


@pytest.mark.parametrize("name", ["sound.m4a", "sound.wav"])
def test_what_libsndfile_does_not_know_is_read_by_pyav(tmp_path: Path, name: str) -> None:
    path = write_sound(tmp_path / name, tone(16000, 2), 16000, container="mp4")
    sound = load_audio(path, 16000, 1)
    assert sound.shape == (16000,)
    assert np.abs(np.fft.rfft(sound[4000:12000])).argmax() == 220


def test_what_cannot_be_decoded_is_refused_with_a_reason(tmp_path: Path) -> None:
    wav, flac, mp3 = (
        written(tmp_path / f"whole.{suffix}", tone(16000, 4), 16000).read_bytes()
        for suffix in ("wav", "flac", "mp3")
    )
    video = write_video(tmp_path / "video.mp4", [0.0]).read_bytes()
    bad = tone(16000)
    bad[7] = np.nan
    contents = {
        "empty": (b"", "the file is empty"),
        "text": (b"<html>404</html>" * 9, "cannot be decoded: .*Invalid data"),
        "truncated.wav": (wav[: len(wav) // 2], "truncated: 64[0-9]+ of 128[0-9]+ bytes"),
        "truncated.flac": (flac[: len(flac) // 2], "cannot be decoded|truncated"),
        "truncated.mp3": (mp3[: len(mp3) // 2], "truncated: [0-9]+ of [0-9]+ bytes are there"),
        "video.mp4": (video, "it has no sound"),
    }
    for name, (content, reason) in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(MediaError, match=reason):
            load_audio(path, 16000, 10)
    with pytest.raises(MediaError, match="no such file"):
        load_audio(tmp_path / "absent.wav", 16000, 10)
    with pytest.raises(MediaError, match="not finite"):
        load_audio(written(tmp_path / "nan.wav", bad, 16000, subtype="FLOAT"), 16000, 10)
    for samples in (0, 399):
        path = written(tmp_path / "short.wav", tone(16000)[:samples], 16000)
        with pytest.raises(MediaError, match=r"too short a sound|it has no sound"):
            load_audio(path, 16000, 10)


def test_a_streamed_wav_file_is_whole(tmp_path: Path) -> None:
    """Who writes to a pipe cannot know the size, and writes the largest."""
    content = bytearray(written(tmp_path / "sound.wav", tone(16000), 16000).read_bytes())
    place = content.index(b"data") + 4
    content[4:8] = content[place : place + 4] = struct.pack("<I", 0xFFFFFFFF)
    (tmp_path / "sound.wav").write_bytes(content)
    assert load_audio(tmp_path / "sound.wav", 16000, 10).shape == (16000,)


def test_of_a_long_recording_the_start_or_with_a_seed_any_part(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 5 * 8000)
    path = written(tmp_path / "sound.wav", ramp, 8000, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(path, 8000, 2), ramp[:16000], atol=1e-6)
    starts = [load_audio(path, 8000, 2, seed)[0] for seed in range(50)]
    assert load_audio(path, 8000, 2, 7)[0] == starts[7]
    assert min(starts) < 0.1
    assert 0.5 < max(starts) <= 0.6


# what models take


def test_the_filterbank_is_that_of_ast(tmp_path: Path) -> None:
    extractor = ASTFeatureExtractor()
    for seconds in (0.03, 3.7, 12.0):
        path = noise(tmp_path / "noise.wav", seconds)
        found = FbankDecoder()(path)
        assert found.shape == (1024, 128)
        assert found.dtype == torch.float32
        waveform = load_audio(path, 16000, 10)
        expected = extractor(waveform, sampling_rate=16000, return_tensors="np")["input_values"][0]
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert found[:998].std() > 0.05
    torch.testing.assert_close(found[998:], torch.full((26, 128), ZERO))


def test_spec_augment_masks_one_band_and_one_span(tmp_path: Path) -> None:
    path = noise(tmp_path / "noise.wav", 10)
    decoder = FbankDecoder(frames=998)
    clean = decoder(path)
    bands, spans = set(), set()
    for seed in range(30):
        view = decoder(path, seed)
        masked = view != clean
        assert torch.equal(view, decoder(path, seed))
        torch.testing.assert_close(view[masked], torch.full((int(masked.sum()),), ZERO))
        band, span = masked.all(dim=0).nonzero()[:, 0], masked.all(dim=1).nonzero()[:, 0]
        expected = torch.zeros_like(masked)
        expected[:, band], expected[span] = True, True
        assert torch.equal(masked, expected)
        for part, parts in ((band, bands), (span, spans)):
            if len(part):
                assert part[-1] - part[0] == len(part) - 1
                parts.add((int(part[0]), len(part)))
    assert len(bands) > 20
    assert len(spans) > 20
    assert 15 < max(length for _, length in bands) < 24
    assert 60 < max(length for _, length in spans) < 96


def test_the_waveform_is_that_of_clap(tmp_path: Path) -> None:
    """Repeated as often as it fits, then zeros; values on the grid of 16 bits."""
    samples = tone(48000, seconds=3)
    decoder = WaveformDecoder()
    waveform = decoder(written(tmp_path / "sound.wav", samples, 48000, subtype="FLOAT"))
    assert waveform.shape == (480000,)
    assert waveform.dtype == torch.float32
    expected = np.concatenate([samples] * 3 + [np.zeros(48000)])
    np.testing.assert_allclose(waveform, expected, atol=1 / 32767)
    levels = waveform.double() * 32767
    torch.testing.assert_close(levels, levels.round(), atol=2e-2, rtol=0)
    loud = written(tmp_path / "loud.wav", samples * 4, 48000, subtype="FLOAT")
    assert decoder(loud).abs().max() == 1
    long = noise(tmp_path / "long.wav", 11, 48000)
    assert decoder(long).shape == (480000,)
    assert not torch.equal(decoder(long, 1), decoder(long, 2))


def test_the_log_mel_spectrogram_is_that_of_whisper(tmp_path: Path) -> None:
    path = noise(tmp_path / "noise.wav", 4)
    found = LogMelDecoder()(path)
    assert found.shape == (80, 3000)
    assert found.dtype == torch.float32
    extractor = WhisperFeatureExtractor()
    waveform = load_audio(path, 16000, 30)
    expected = extractor(waveform, sampling_rate=16000, return_tensors="np")["input_features"][0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    masked = LogMelDecoder()(path, 1) != found
    assert 0 < masked.float().mean() < 0.4


def test_real_clips() -> None:
    clips = shared("audio-caption/test", "*.wav")
    banks = torch.stack([FbankDecoder()(clip) for clip in clips])
    assert abs(banks.mean()) < 0.3  # normalised by what AudioSet has
    assert 0.2 < banks.std() < 0.8
    assert WaveformDecoder()(clips[0]).std() > 1e-3


def test_a_part_of_a_sound_beyond_sane_length_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would have to be held in memory; the start of it does not."""
    path = write_sound(tmp_path / "sound.mp4", tone(16000, 4), 16000)
    monkeypatch.setattr("depalm.media.sound.LONGEST", 3)
    assert load_audio(path, 16000, 1).shape == (16000,)
    with pytest.raises(MediaError, match="it is longer than"):
        load_audio(path, 16000, 1, seed=0)
