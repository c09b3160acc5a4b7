"""Decoding: every kind of image comes out as upright RGB, or is refused with a reason."""

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from depalm.media.decoders import load_decoder
from depalm.media.image import OPERATIONS, ImageDecoder, augmented, load_image
from depalm.rejects import MediaError
from tests.support.specs import backbone_spec

RED, BLUE = (250, 10, 20), (10, 20, 250)
SPEC = {
    "version": 1,
    "loader": "any",
    "path": "weights",
    "shape": {"layers": 1, "tokens": 2, "width": 3},
    "modality": "image",
    "image_size": 8,
    "mean": [0.5, 0.25, 0.0],
    "std": [0.5, 0.25, 1.0],
}


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
    decoder = load_decoder(backbone_spec(SPEC))
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


# augmented views


def views(path: Path, count: int = 40, size: int = 32) -> list[torch.Tensor]:
    decoder = ImageDecoder(size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return [decoder(path, seed) for seed in range(count)]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Smooth, and different everywhere."""
    y, x = np.mgrid[0:48, 0:64]
    values = np.stack([x * 4, y * 5, (x + y) * 2], axis=-1).astype(np.uint8)
    return saved(Image.fromarray(values), tmp_path / "photo.png")


def test_a_seed_gives_one_view_and_other_seeds_others(photo: Path) -> None:
    first, second = views(photo), views(photo)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert len({view.numpy().tobytes() for view in first}) > 35
    assert all(view.shape == (3, 32, 32) and 0 <= view.min() <= view.max() <= 1 for view in first)


def test_no_other_random_numbers_change(photo: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    views(photo, count=1)
    assert torch.equal(torch.rand(2), expected)


def test_crops_keep_at_least_half_and_half_of_them_are_flipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("depalm.media.image.OPERATIONS", {"identity": OPERATIONS["identity"]})
    y, x = np.mgrid[0:256, 0:256].astype(np.uint8)
    path = saved(Image.fromarray(np.stack([x, y, x], axis=-1)), tmp_path / "ramps.png")
    flips, areas = [], []
    for view in views(path, count=200):
        width, height = (view[0, 16, -1] - view[0, 16, 0]), (view[1, -1, 16] - view[1, 0, 16])
        flips.append(bool(width < 0))
        areas.append(float(width.abs() * height) * (32 / 31) ** 2)
        assert height > 0
    assert 0.4 < np.mean(flips) < 0.6
    assert 0.47 < min(areas) < 0.55
    assert 0.9 < max(areas) < 1.02


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_changes_the_image_but_identity(name: str) -> None:
    noise = np.random.default_rng(0).integers(50, 200, (40, 40, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    largest, operation = OPERATIONS[name]
    up, down = operation(image, 0.7 * largest), operation(image, -0.7 * largest)
    assert up.size == image.size
    assert (up == image) == (name == "identity")
    assert (up == down) == (largest == 0)


def test_magnitudes_are_seven_tenths_of_those_of_randaugment() -> None:
    """Geometry at strength 7 of 10: 21 degrees, slope 0.21, 0.317 of the side."""
    image = Image.new("L", (200, 200))
    image.paste(255, (90, 90, 110, 110))

    def centre(name: str) -> list[float]:
        largest, operation = OPERATIONS[name]
        y, x = np.nonzero(np.asarray(operation(image, 0.7 * largest)) > 127)
        return [x.mean() - 99.5, y.mean() - 99.5]

    np.testing.assert_allclose(centre("translate_x"), [0.3172 * 200, 0], atol=1)
    np.testing.assert_allclose(centre("translate_y"), [0, 0.3172 * 200], atol=1)
    np.testing.assert_allclose(np.abs(centre("shear_x")), [21, 0], atol=1)  # 0.21 * 100
    np.testing.assert_allclose(np.abs(centre("shear_y")), [0, 21], atol=1)
    image = Image.new("L", (200, 200))
    image.paste(255, (170, 95, 190, 105))
    dx, dy = centre("rotate")
    assert abs(abs(math.degrees(math.atan2(dy, dx))) - 21) < 1


def test_frames_of_a_clip_are_augmented_alike(photo: Path) -> None:
    frame = Image.open(photo).convert("RGB")
    for seed in range(10):
        clip = augmented([frame] * 3, 24, seed)
        assert clip[0] == clip[1] == clip[2]
        assert augmented([frame], 24, seed)[0] == clip[0]
