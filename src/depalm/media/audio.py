"""Audio files -> filterbanks, waveforms or log-mel spectrograms, as they are or augmented."""

import warnings
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank

from depalm.media.sound import load_audio
from depalm.specs import BackboneSpec

PREEMPHASIS = 0.97  # Kaldi's
READERS = "libsndfile, PyAV"  # in this order, MP3 by PyAV
FREQUENCY_MASK, TIME_MASK = 24, 96  # bins and frames; the masks are narrower
SPEC_AUGMENT = {"frequency_mask": FREQUENCY_MASK, "time_mask": TIME_MASK, "part": "random"}


@dataclass(frozen=True)
class FbankDecoder:
    """Audio file -> log filterbank energies [frames, mel_bins], float32: what AST, MAViL and
    AudioMAE take.

    As AST (Gong et al. 2021) makes them: Kaldi's filterbank, a Hann window of 25 ms every 10 ms,
    of the first `seconds` in mono; padded with zeros to `frames`; then (x - mean) / (2 std). With a
    seed, SpecAugment sets a band of less than 24 bins and a span of less than 96 frames to zero
    before that, and of a longer recording it takes `seconds` from anywhere.
    """

    frames: int = 1024
    mel_bins: int = 128
    mean: float = -4.2677393
    std: float = 4.5689974
    sampling_rate: int = 16000
    seconds: float = 10.0

    def __call__(self, path: Path, seed: int | None = None) -> Tensor:
        """Raises MediaError."""
        waveform = load_audio(path, self.sampling_rate, self.seconds, seed)
        found = self._energies(torch.from_numpy(waveform).double())[: self.frames]
        fbank = torch.zeros(self.frames, self.mel_bins)
        fbank[: len(found)] = found
        if seed is not None:
            spec_augment(fbank, seed)
        return (fbank - self.mean) / (2 * self.std)

    def _energies(self, waveform: Tensor) -> Tensor:
        """Waveform [samples] -> log energies [windows, mel_bins]."""
        width = self.sampling_rate // 40
        windows = waveform.unfold(0, width, self.sampling_rate // 100)  # [windows, width]
        windows = windows - windows.mean(dim=1, keepdim=True)
        before = torch.cat((windows[:, :1], windows[:, :-1]), dim=1)
        emphasised = windows - PREEMPHASIS * before
        hann = torch.hann_window(width, periodic=False, dtype=waveform.dtype)
        spectra = torch.fft.rfft(emphasised * hann, n=2 * (len(self._filters) - 1))
        energies = spectra.abs().square() @ self._filters  # [windows, mel_bins]
        return energies.clamp(min=torch.finfo(torch.float32).eps).log()

    @cached_property
    def _filters(self) -> Tensor:
        """[frequencies, mel_bins], float64."""
        width = self.sampling_rate // 40
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of 128 bins the lowest lie between frequencies
            filters = mel_filter_bank(
                num_frequency_bins=(1 << (width - 1).bit_length()) // 2 + 1,
                num_mel_filters=self.mel_bins,
                min_frequency=20,
                max_frequency=self.sampling_rate // 2,
                sampling_rate=self.sampling_rate,
                mel_scale="kaldi",
                triangularize_in_mel_space=True,
            )
        return torch.from_numpy(filters)

    def describe(self, with_seed: bool = False) -> dict[str, Any]:
        return described("fbank", self, SPEC_AUGMENT if with_seed else {})


@dataclass(frozen=True)
class WaveformDecoder:
    """Audio file -> waveform [seconds * sampling_rate], float32, in mono: what CLAP takes.

    As laion_clap without fusion makes it: rounded to 16 bits; a shorter recording is repeated as
    often as it fits whole, then padded with zeros. A longer one is cut: to its start, or with a
    seed to any part (laion_clap always draws). A shorter one is the same for every seed.
    """

    sampling_rate: int = 48000
    seconds: float = 10.0

    def __call__(self, path: Path, seed: int | None = None) -> Tensor:
        """Raises MediaError."""
        found = load_audio(path, self.sampling_rate, self.seconds, seed)
        rounded = np.trunc(np.clip(found, -1, 1) * np.float32(32767)) / np.float32(32767)
        samples = round(self.seconds * self.sampling_rate)
        repeated = np.tile(rounded, samples // len(rounded))
        return torch.from_numpy(np.pad(repeated, (0, samples - len(repeated))))

    def describe(self, with_seed: bool = False) -> dict[str, Any]:
        return described("waveform", self, {"part": "random"} if with_seed else {})


@dataclass(frozen=True)
class LogMelDecoder:
    """Audio file -> Whisper's log-mel spectrogram [mel_bins, 100 * seconds], float32.

    With a seed SpecAugment sets a band and a span of it to zero, and of a longer recording it takes
    `seconds` from anywhere.
    """

    mel_bins: int = 80
    sampling_rate: int = 16000
    seconds: float = 30.0

    def __call__(self, path: Path, seed: int | None = None) -> Tensor:
        """Raises MediaError."""
        waveform = load_audio(path, self.sampling_rate, self.seconds, seed)
        features = self._extractor(waveform, sampling_rate=self.sampling_rate, return_tensors="np")
        log_mel = torch.from_numpy(features["input_features"][0])  # [mel_bins, frames]
        if seed is not None:
            spec_augment(log_mel.T, seed)
        return log_mel

    @cached_property
    def _extractor(self) -> WhisperFeatureExtractor:
        return WhisperFeatureExtractor(
            feature_size=self.mel_bins,
            sampling_rate=self.sampling_rate,
            chunk_length=round(self.seconds),
        )

    def describe(self, with_seed: bool = False) -> dict[str, Any]:
        return described("log_mel", self, SPEC_AUGMENT if with_seed else {})


def described(kind: str, decoder: Any, augmentation: dict[str, Any]) -> dict[str, Any]:
    """What decides the tensors of a decoder of audio, a dataclass."""
    return {"audio": kind, "readers": READERS, **asdict(decoder), **augmentation}


def spec_augment(spectrogram: Tensor, seed: int) -> None:
    """Set a band of less than 24 bins and a span of less than 96 frames of [frames, bins] to zero,
    in place (SpecAugment, Park et al. 2019; widths and places uniform).
    """
    random = np.random.default_rng([seed, 1])
    for axis, width in enumerate((TIME_MASK, FREQUENCY_MASK)):
        size = spectrogram.shape[axis]
        masked = int(random.uniform(0, min(width, size)))
        start = int(random.uniform(0, size - masked))
        spectrogram.narrow(axis, start, masked).zero_()


def fbank_decoder(spec: BackboneSpec) -> FbankDecoder:
    """The decoder of a backbone with `audio: fbank`."""
    keys = ("frames", "mel_bins", "mean", "std", "sampling_rate", "seconds")
    return FbankDecoder(**spec.take(*keys))


def waveform_decoder(spec: BackboneSpec) -> WaveformDecoder:
    """The decoder of a backbone with `audio: waveform`."""
    return WaveformDecoder(**spec.take("sampling_rate", "seconds"))


def log_mel_decoder(spec: BackboneSpec) -> LogMelDecoder:
    """The decoder of a backbone with `audio: log_mel`."""
    return LogMelDecoder(**spec.take("mel_bins", "sampling_rate", "seconds"))
