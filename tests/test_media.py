"""Decoding: every kind of image comes out as upright RGB, or is refused with a reason."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from depalm.images import ImageDecoder, load_image
from depalm.media import load_decoder, token_identity
from depalm.rejects import MediaError

RED, BLUE = (250, 10, 20), (10, 20, 250)
SPEC = {"modality": "image", "image_size": 8, "mean": [0.5, 0.25, 0.0], "std": [0.5, 0.25, 1.0]}


def left_right(width: int = 8, height: int = 4) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def pixel(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    assert image.mode == "RGB"
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_colours_survive_every_mode(tmp_path: Path, mode: str) -> None:
    name = "image.tif" if mode == "CMYK" else "image.png"
    converted = left_right().convert(mode, palette=Image.Palette.ADAPTIVE)
    image = load_image(saved(converted, tmp_path / name))
    assert image.size == (8, 4)
    np.testing.assert_allclose(pixel(image, 0, 0), RED, atol=5)
    np.testing.assert_allclose(pixel(image, 7, 3), BLUE, atol=5)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_and_black_and_white_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (2, 2), 255)
    image.putpixel((0, 0), 0)
    image = load_image(saved(image, tmp_path / "image.png"))
    assert pixel(image, 0, 0) == (0, 0, 0)
    assert pixel(image, 1, 1) == (255, 255, 255)


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 3, 257 * 128, 65535]], dtype=np.uint16)
    image = load_image(saved(Image.fromarray(values), tmp_path / "image.png"))
    assert [pixel(image, x, 0)[0] for x in range(4)] == [0, 3, 128, 255]


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (2, 1), (*RED, 0))
    clear.putpixel((1, 0), (*RED, 255))
    image = load_image(saved(clear, tmp_path / "rgba.png"))
    assert [pixel(image, x, 0) for x in (0, 1)] == [(255, 255, 255), RED]
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([*RED])
    image = load_image(saved(palette, tmp_path / "palette.png", transparency=0))
    assert pixel(image, 0, 0) == (255, 255, 255)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    path = saved(left_right(32, 16), tmp_path / "image.jpg", exif=exif, quality=95)
    image = load_image(path)
    assert image.size == (16, 32)
    np.testing.assert_allclose(pixel(image, 8, 4), RED, atol=15)
    np.testing.assert_allclose(pixel(image, 8, 28), BLUE, atol=15)


def test_an_animation_is_its_first_frame_whatever_its_name(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in (RED, BLUE)]
    gif = saved(frames[0], tmp_path / "image.gif", save_all=True, append_images=frames[1:])
    image = load_image(gif.rename(tmp_path / "image.jpg"))
    np.testing.assert_allclose(pixel(image, 0, 0), RED, atol=5)


def test_what_cannot_be_decoded_is_refused_with_a_reason(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = {
        suffix: saved(Image.fromarray(noise), tmp_path / f"whole.{suffix}").read_bytes()
        for suffix in ("jpg", "png")
    }
    broken = bytearray(whole["png"])
    broken[len(broken) // 2] ^= 255
    huge = bytearray(whole["png"])
    huge[16:24] = (60000).to_bytes(4, "big") * 2  # a decompression bomb's header
    huge[29:33] = zlib.crc32(huge[12:29]).to_bytes(4, "big")
    contents = {
        "empty": (b"", "the file is empty"),
        "text": (b"<html>404</html>", "not an image that Pillow knows"),
        "truncated.jpg": (whole["jpg"][: len(whole["jpg"]) // 2], "cannot be decoded: .*truncated"),
        "truncated.png": (whole["png"][: len(whole["png"]) // 2], "cannot be decoded: .*truncated"),
        "broken.png": (bytes(broken), "cannot be decoded"),
        "huge.png": (bytes(huge), "cannot be decoded: .*decompression bomb"),
    }
    for name, (content, reason) in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(MediaError, match=reason):
            load_image(path)
    with pytest.raises(MediaError, match="no such file"):
        load_image(tmp_path / "absent.png")
    path = saved(Image.new("F", (2, 2), 0.5), tmp_path / "float.tif")
    with pytest.raises(MediaError, match="no known range"):
        load_image(path)


def test_pixels_are_a_normalised_square(tmp_path: Path) -> None:
    path = saved(Image.new("RGB", (30, 20), (255, 51, 102)), tmp_path / "image.png")
    decoder = load_decoder(SPEC)
    pixels = decoder(path)
    assert pixels.shape == (3, 8, 8)
    assert pixels.dtype == torch.float32
    expected = torch.tensor([1.0, (0.2 - 0.25) / 0.25, 0.4]).view(3, 1, 1).expand(3, 8, 8)
    torch.testing.assert_close(pixels, expected)
    assert decoder(path).equal(pixels)


def test_the_square_is_the_whole_image(tmp_path: Path) -> None:
    plain = ImageDecoder(4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    pixels = plain(saved(left_right(64, 8), tmp_path / "image.png")) * 255
    red, blue = torch.tensor(RED), torch.tensor(BLUE)
    torch.testing.assert_close(pixels[:, 1, 0], red.float(), atol=5, rtol=0)
    torch.testing.assert_close(pixels[:, 2, 3], blue.float(), atol=5, rtol=0)


def test_identity_changes_with_the_transform() -> None:
    identity = token_identity(SPEC)
    assert identity["transform"]["resize"] == [8, 8]
    assert identity["backbone"] == SPEC
    assert token_identity({**SPEC, "image_size": 16})["transform"] != identity["transform"]
