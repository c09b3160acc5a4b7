"""Image files -> pixels, as they are or augmented (docs/methods.md#media)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps, UnidentifiedImageError
from torch import Tensor

from depalm.rejects import MediaError, require_content, undecodable
from depalm.specs import BackboneSpec

Operation = Callable[[Image.Image, int], Image.Image]

WHITE = (255, 255, 255, 255)
CROP_SCALE = (0.5, 1.0)  # part of the image's area
GEOMETRY = {"crop": list(CROP_SCALE), "flip": 0.5}
OPERATIONS_DRAWN = 2
APPLIED = 0.5  # probability that a drawn operation is applied
GREY = (128, 128, 128)  # where nothing was
LEVEL = 0.7  # 7 of 10
FACTOR = 0.1 + LEVEL * 1.8  # of brightness and sharpness
SLOPE, PIXELS, DEGREES = LEVEL * 0.3, round(LEVEL * 10), LEVEL * 30


@dataclass(frozen=True)
class ImageDecoder:
    """Image file -> pixels [3, image_size, image_size], float32, normalised per channel.

    The image is resized to a square, bicubic and antialiased, whatever its proportions are (as the
    paper evaluates); with a seed it is augmented (see `augmented`). With `crop_pct` that square is
    enlarged to image_size / crop_pct, and its centre taken: timm's evaluation of a square.
    """

    image_size: int
    mean: Sequence[float]  # of red, green and blue
    std: Sequence[float]
    crop_pct: float | None = None

    def __call__(self, path: Path, seed: int | None = None) -> Tensor:
        """Raises MediaError."""
        return self.pixels([load_image(path)], seed)[0]

    def pixels(self, frames: Sequence[Image.Image], seed: int | None) -> Tensor:
        """F frames, all augmented alike -> [F, 3, image_size, image_size]."""
        if seed is None:
            squares = [self.resized(frame, self.image_size) for frame in frames]
        else:
            squares = augmented(frames, self.image_size, seed)
        return self.normalised(squares)

    def normalised(self, squares: Sequence[Image.Image]) -> Tensor:
        """F squares -> [F, 3, image_size, image_size]."""
        if self.crop_pct is not None:
            squares = [self._centre(square) for square in squares]
        values = torch.from_numpy(np.stack([np.asarray(square) for square in squares]))
        pixels = values.permute(0, 3, 1, 2).float() / 255  # [F, H, W, 3] -> [F, 3, H, W]
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (self.mean, self.std))
        return ((pixels - mean) / std).contiguous()

    def resized(self, image: Image.Image, size: int) -> Image.Image:
        """A square of `size` pixels."""
        return image.resize((size, size), Image.Resampling.BICUBIC)

    def _centre(self, square: Image.Image) -> Image.Image:
        """As timm crops: see timm.data.create_transform."""
        assert self.crop_pct is not None
        enlarged = math.floor(self.image_size / self.crop_pct)
        start = round((enlarged - self.image_size) / 2)
        end = start + self.image_size
        return self.resized(square, enlarged).crop((start, start, end, end))

    def clean(self) -> dict[str, Any]:
        """What decides the pixels of a file as it is."""
        cropped = {} if self.crop_pct is None else {"crop_pct": self.crop_pct}
        return {
            "resize": [self.image_size, self.image_size],
            "interpolation": "bicubic",
            "mean": list(self.mean),
            "std": list(self.std),
            **cropped,
        }

    def describe(self, with_seed: bool = False) -> dict[str, Any]:
        if not with_seed:
            return self.clean()
        operations = {
            "drawn": OPERATIONS_DRAWN,
            "of": sorted(OPERATIONS),
            "level": LEVEL,
            "applied": APPLIED,
        }
        return {**self.clean(), **GEOMETRY, "operations": operations}


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
            upright = ImageOps.exif_transpose(image)
            if image.format == "PPM" and image.mode == "I":  # 16 bits, scaled to 65535
                upright = upright.convert("I;16")
            return _to_rgb(upright)
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

    A random crop and flip (see `cropped`), then two of OPERATIONS, drawn with replacement, each of
    which is applied with probability 0.5, with a random sign. The same seed gives the same result,
    and no other random numbers of the process change.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        squares = cropped(frames, size)
        for operation, sign in drawn():
            squares = [operation(square, sign) for square in squares]
    return squares


def cropped(frames: Sequence[Image.Image], size: int) -> list[Image.Image]:
    """The frames as squares of `size` pixels, of the same random part: half to all of the area
    (bicubic), every second one flipped.
    """
    from torchvision.transforms import v2  # a second of every job that augments nothing

    geometry = v2.Compose(
        [
            v2.RandomResizedCrop(
                size, scale=CROP_SCALE, interpolation=v2.InterpolationMode.BICUBIC
            ),
            v2.RandomHorizontalFlip(),
        ]
    )
    squares: list[Image.Image] = geometry(list(frames))  # draws once for the whole list
    return squares


def drawn() -> list[tuple[Operation, int]]:
    """The operations of an image, each with its sign: none, one or two, at random."""
    names = list(OPERATIONS)
    chosen = torch.randint(len(names), (OPERATIONS_DRAWN,)).tolist()
    signs = (torch.randint(2, (OPERATIONS_DRAWN,)) * 2 - 1).tolist()
    applied = (torch.rand(OPERATIONS_DRAWN) < APPLIED).tolist()
    found = zip(chosen, signs, applied, strict=True)
    return [(OPERATIONS[names[i]], sign) for i, sign, does in found if does]


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    """The image whose pixel (x, y) was at (a x + b y + c, d x + e y + f) before, bilinear; grey
    where nothing was.
    """
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=GREY
    )


def image_decoder(spec: BackboneSpec) -> ImageDecoder:
    """The decoder of a backbone that takes images."""
    return ImageDecoder(**spec.take("image_size", "mean", "std", "crop_pct"))


# name -> what is done with an image, in the direction of the sign where there are two
OPERATIONS: dict[str, Operation] = {
    "identity": lambda image, _: image,
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "brightness": lambda image, _: ImageEnhance.Brightness(image).enhance(FACTOR),
    "sharpness": lambda image, _: ImageEnhance.Sharpness(image).enhance(FACTOR),
    "shear_x": lambda image, sign: _affine(image, 1, sign * SLOPE, 0, 0, 1, 0),
    "shear_y": lambda image, sign: _affine(image, 1, 0, 0, sign * SLOPE, 1, 0),
    "translate_x": lambda image, sign: _affine(image, 1, 0, sign * PIXELS, 0, 1, 0),
    "translate_y": lambda image, sign: _affine(image, 1, 0, 0, 0, 1, sign * PIXELS),
    "rotate": lambda image, sign: image.rotate(
        sign * DEGREES, Image.Resampling.BILINEAR, fillcolor=GREY
    ),
}
