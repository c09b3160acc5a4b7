"""Media files -> the tensors that a backbone takes, always the same ones for the same file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

WHITE = (255, 255, 255, 255)


class MediaError(ValueError):
    """A media file that cannot be decoded; the message is the reason, without the file's name."""


class Decoder(Protocol):
    """Reads a media file as the backbone wants it; its fields decide what comes out."""

    def __call__(self, path: Path) -> Tensor: ...

    def describe(self) -> dict[str, Any]:
        """What decides the tensor, as JSON: part of the identity of cached tokens."""
        ...


@dataclass(frozen=True)
class ImageDecoder:
    """Image file -> pixels [3, image_size, image_size], float32, normalised per channel.

    The image is resized to a square, bicubic and antialiased, whatever its proportions are (as the
    paper evaluates).
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, path: Path) -> Tensor:
        """Raises MediaError."""
        size = (self.image_size, self.image_size)
        image = load_image(path).resize(size, Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (self.mean, self.std))
        return ((pixels - mean) / std).contiguous()

    def describe(self) -> dict[str, Any]:
        return {
            "resize": [self.image_size, self.image_size],
            "interpolation": "bicubic",
            "mean": list(self.mean),
            "std": list(self.std),
        }


def load_image(path: Path) -> Image.Image:
    """The image in the file as 8-bit RGB, upright; of an animation, the first frame.

    The format is told from the content, not from the name. EXIF orientation is applied,
    transparency is laid on white, 16-bit grey is scaled to 8 bits. Raises MediaError: no such file,
    empty, truncated, not an image, larger than Pillow's limit against decompression bombs, or grey
    values of 32 bits, whose range no format states.
    """
    try:
        size = path.stat().st_size
        if not size:
            raise MediaError("the file is empty")
        with Image.open(path) as image:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except MediaError:
        raise
    except FileNotFoundError as error:
        raise MediaError("no such file") from error
    except UnidentifiedImageError as error:
        raise MediaError("not an image that Pillow knows") from error
    except MemoryError:
        raise
    except Exception as error:  # what a decoder raises on broken bytes is anything
        raise MediaError(f"cannot be decoded: {str(error) or type(error).__name__}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        values = np.asarray(image, dtype=np.float32) / 257  # 65535 -> 255
        return Image.fromarray(values.round().astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise MediaError(f"grey values of 32 bits (Pillow mode {image.mode}) have no known range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image).convert("RGB")
    return image.convert("RGB")


def image_decoder(spec: Mapping[str, Any]) -> ImageDecoder:
    """The decoder of a backbone (config/backbones/*.yaml) that takes images."""
    return ImageDecoder(spec["image_size"], tuple(spec["mean"]), tuple(spec["std"]))


def token_identity(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the tokens of a file besides the weights, as JSON: kept with cached tokens, and
    what their readers ask for.
    """
    transform = DECODERS[backbone["modality"]](backbone).describe()
    return {"backbone": dict(backbone), "transform": transform, "view": 0}


DECODERS: dict[str, Callable[[Mapping[str, Any]], Decoder]] = {"image": image_decoder}
