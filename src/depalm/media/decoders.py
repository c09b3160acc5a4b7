"""Media files -> the tensors that a backbone takes: for the same file and view always the same."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from depalm.registry import Registry
from depalm.specs import BackboneSpec

if TYPE_CHECKING:
    from torch import Tensor


class Decoder(Protocol):
    """Reads a media file as the backbone wants it; its fields decide what comes out."""

    def __call__(self, path: Path, seed: int | None = None) -> "Tensor":
        """As it is, or with a seed augmented as in training. Raises MediaError."""
        ...

    def describe(self, with_seed: bool = False) -> dict[str, Any]:
        """What decides the tensor besides file and seed, as JSON: part of the identity of cached
        tokens.
        """
        ...


def load_decoder(backbone: BackboneSpec) -> Decoder:
    """The decoder of a backbone."""
    return DECODERS[backbone.audio or backbone.modality](backbone)


def view_seed(media: str, view: int) -> int | None:
    """The seed of a file's view, which depends on nothing else; view 0 is clean and has none."""
    if view == 0:
        return None
    digest = hashlib.sha256(f"{view}/{media}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # torch and numpy take 63 bits


# by the modality of the backbone; if that is audio, by the kind of `audio` that it takes
DECODERS: Registry[Callable[[BackboneSpec], Decoder]] = Registry(
    {
        "image": "depalm.media.image:image_decoder",
        "video": "depalm.media.video:video_decoder",
        "fbank": "depalm.media.audio:fbank_decoder",
        "waveform": "depalm.media.audio:waveform_decoder",
        "log_mel": "depalm.media.audio:log_mel_decoder",
    }
)
