"""Media files -> the tensors that a backbone takes: for the same file and view always the same."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from depalm.media.audio import fbank_decoder, log_mel_decoder, waveform_decoder
from depalm.media.image import image_decoder
from depalm.media.video import video_decoder


class Decoder(Protocol):
    """Reads a media file as the backbone wants it; its fields decide what comes out."""

    def __call__(self, path: Path, seed: int | None = None) -> Tensor:
        """As it is, or with a seed augmented as in training. Raises MediaError."""
        ...

    def describe(self, with_seed: bool = False) -> dict[str, Any]:
        """What decides the tensor besides file and seed, as JSON: part of the identity of cached
        tokens.
        """
        ...


def load_decoder(backbone: Mapping[str, Any]) -> Decoder:
    """The decoder of a backbone (config/backbones/*.yaml)."""
    return DECODERS[backbone.get("audio", backbone["modality"])](backbone)


def view_seed(media: str, view: int) -> int | None:
    """The seed of a file's view, which depends on nothing else; view 0 is clean and has none."""
    if view == 0:
        return None
    digest = hashlib.sha256(f"{view}/{media}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # torch and numpy take 63 bits


def token_identity(backbone: Mapping[str, Any], view: int = 0) -> dict[str, Any]:
    """What decides the tokens of a file besides the weights, as JSON: kept with cached tokens, and
    what their readers ask for.
    """
    transform = load_decoder(backbone).describe(with_seed=view > 0)
    return {"backbone": dict(backbone), "transform": transform, "view": view}


# by the modality of the backbone; of those that hear, by the kind of `audio` that they take
DECODERS: dict[str, Callable[[Mapping[str, Any]], Decoder]] = {
    "image": image_decoder,
    "video": video_decoder,
    "fbank": fbank_decoder,
    "waveform": waveform_decoder,
    "log_mel": log_mel_decoder,
}
