"""Image files -> pixels, as they are or augmented (docs/methods.md#media)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from depalm.rejects import MediaError, require_content, undecodable
from depalm.specs import BackboneSpec

WHITE = (255, 255, 255, 255)
CROP_SCALE = (0.5, 1.0)  # part of the image's area
OPERATIONS_DRAWN = 2
STRENGTH = 0.7  # of the largest magnitudes below


@dataclass(frozen=True)
class ImageDecoder:
    """Image file -> pixels [3, image_size, image_size], float32, normalised per channel.

    The image is resized to a square, bicubic and antialiased, whatever its proportions are (as the
    paper evaluates); with a seed it is augmented (see `augmented`).
    """

    image_size: int
    mean: Sequence[float]  # of red, green and blue
    std: Sequence[float]

    def __call__(self, path: Path, seed: int | None = None) -> Tensor:
        """Raises MediaError."""
        return self.pixels([load_image(path)], seed)[0]

    def pixels(self, frames: Sequence[Image.Image], seed: int | None) -> Tensor:
        """F frames, all augmented alike -> [F, 3, image_size, image_size]."""
        size = (self.image_size, self.image_size)
        if seed is None:
            squares = [frame.resize(size, Image.Resampling.BICUBIC) for frame in frames]
        else:
            squares = augmented(frames, self.image_size, seed)
        values = torch.from_numpy(np.stack([np.asarray(square) for square in squares]))
        pixels = values.permute(0, 3, 1, 2).float() / 255  # [F, H, W, 3] -> [F, 3, H, W]
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (self.mean, self.std))
        return ((pixels - mean) / std).contiguous()

    def describe(self, with_seed: bool = False) -> dict[str, Any]:
        clean = {
            "resize": [self.image_size, self.image_size],
            "interpolation": "bicubic",
            "mean": list(self.mean),
            "std": list(self.std),
        }
        if not with_seed:
            return clean
        operations = {"drawn": OPERATIONS_DRAWN, "of": sorted(OPERATIONS), "strength": STRENGTH}
        return {**clean, "crop": list(CROP_SCALE), "flip": 0.5, "operations": operations}


def load_image(path: Path) -> Image.Image:
    """The image in the file as 8-bit RGB, upright; of an animation, the first frame.

    The format is told from the content, not from the name. EXIF orientation is applied,
    transparency is laid on white, 16-bit grey is scaled to 8 bits. Raises MediaError: no such file,
    empty, truncated, not an image, larger than Pillow's limit against decompression bombs, or grey
    values of 32 bits, whose range no format states.
    """
    require_content(path)
    try:
        with Image.open(path) as image:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except (MediaError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise MediaError("not an image that Pillow knows") from error
    except Exception as error:  # what a decoder raises on broken bytes is anything
        raise undecodable(error) from error


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


def augmented(frames: Sequence[Image.Image], size: int, seed: int) -> list[Image.Image]:
    """The frames as squares of `size` pixels, all cropped, flipped and changed alike.

    A random crop of half to all of the area (bicubic), a flip of every second one, then two of
    OPERATIONS, drawn with replacement. The same seed gives the same result, and no other random
    numbers of the process change.
    """
    geometry = v2.Compose(
        [
            v2.RandomResizedCrop(
                size, scale=CROP_SCALE, interpolation=v2.InterpolationMode.BICUBIC
            ),
            v2.RandomHorizontalFlip(),
        ]
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        squares = geometry(list(frames))  # draws once for the whole list
        names = list(OPERATIONS)
        drawn = [names[i] for i in torch.randint(len(names), (OPERATIONS_DRAWN,))]
        signs = (torch.randint(2, (OPERATIONS_DRAWN,)) * 2 - 1).tolist()
    for name, sign in zip(drawn, signs, strict=True):
        largest, operation = OPERATIONS[name]
        squares = [operation(square, sign * STRENGTH * largest) for square in squares]
    return squares


def _affine(
    image: Image.Image,
    angle: float = 0.0,
    translate: tuple[float, float] = (0.0, 0.0),
    shear: tuple[float, float] = (0.0, 0.0),
) -> Image.Image:
    """Rotated by `angle` degrees, moved by parts of its sides, sheared by slopes from its upper
    left corner; black where nothing was.
    """
    return functional.affine(
        image,
        angle=angle,
        translate=[round(translate[0] * image.width), round(translate[1] * image.height)],
        scale=1.0,
        shear=[math.degrees(math.atan(slope)) for slope in shear],
        interpolation=v2.InterpolationMode.BILINEAR,
        center=[0, 0] if any(shear) else None,
    )


def image_decoder(spec: BackboneSpec) -> ImageDecoder:
    """The decoder of a backbone that takes images."""
    return ImageDecoder(**spec.take("image_size", "mean", "std"))


# name -> the largest magnitude, whose sign is drawn, and what is done with the image: those of
# RandAugment (Cubuk et al. 2019) as torchvision has them, where 0.7 is bin 21 of 31
OPERATIONS: dict[str, tuple[float, Callable[[Image.Image, float], Image.Image]]] = {
    "identity": (0.0, lambda image, _: image),
    "autocontrast": (0.0, lambda image, _: functional.autocontrast(image)),
    "equalize": (0.0, lambda image, _: functional.equalize(image)),
    "brightness": (0.9, lambda image, by: functional.adjust_brightness(image, 1 + by)),
    "sharpness": (0.9, lambda image, by: functional.adjust_sharpness(image, 1 + by)),
    "shear_x": (0.3, lambda image, by: _affine(image, shear=(by, 0.0))),
    "shear_y": (0.3, lambda image, by: _affine(image, shear=(0.0, by))),
    "translate_x": (150 / 331, lambda image, by: _affine(image, translate=(by, 0.0))),
    "translate_y": (150 / 331, lambda image, by: _affine(image, translate=(0.0, by))),
    "rotate": (30.0, lambda image, by: _affine(image, angle=by)),
}
