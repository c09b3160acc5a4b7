"""Decoding: every kind of image comes out as upright RGB, or is refused with a reason."""

import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from timm.data import create_transform

from depalm.media.decoders import load_decoder
from depalm.media.image import OPERATIONS, ImageDecoder, augmented, cropped, drawn, load_image
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


GREY = (128, 128, 128)
BILINEAR = Image.Resampling.BILINEAR


def transformed(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, BILINEAR, fillcolor=GREY)


# level 7 of 10: brightness and sharpness 0.1 + 0.7 x 1.8, slope 0.21, 7 pixels, 21 degrees
EXPECTED = {
    "identity": lambda image, _: image,
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "brightness": lambda image, _: ImageEnhance.Brightness(image).enhance(1.36),
    "sharpness": lambda image, _: ImageEnhance.Sharpness(image).enhance(1.36),
    "shear_x": lambda image, sign: transformed(image, 1, sign * 0.21, 0, 0, 1, 0),
    "shear_y": lambda image, sign: transformed(image, 1, 0, 0, sign * 0.21, 1, 0),
    "translate_x": lambda image, sign: transformed(image, 1, 0, sign * 7, 0, 1, 0),
    "translate_y": lambda image, sign: transformed(image, 1, 0, 0, 0, 1, sign * 7),
    "rotate": lambda image, sign: image.rotate(sign * 21, BILINEAR, fillcolor=GREY),
}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", EXPECTED)
def test_every_operation_is_that_of_pillow(name: str, sign: int) -> None:
    noise = np.random.default_rng(0).integers(50, 200, (224, 224, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    found = OPERATIONS[name](image, sign)
    assert found == EXPECTED[name](image, sign)
    assert (found == image) == (name == "identity")
    assert OPERATIONS.keys() == EXPECTED.keys()


def test_translations_are_of_seven_pixels_and_leave_grey() -> None:
    image = Image.fromarray(np.full((32, 32, 3), 10, np.uint8))
    for name, axis in (("translate_x", 1), ("translate_y", 0)):
        rows = (np.asarray(OPERATIONS[name](image, 1)) == 128).all(axis=(1 - axis, 2))
        assert rows.tolist() == [False] * 25 + [True] * 7


def test_three_in_ten_draws_change_nothing_but_crop_and_flip(photo: Path) -> None:
    """Both left out, or identity: (1 - 0.5 x 0.9)^2 = 0.3025, and every operation has its turn."""
    frame, size, unchanged = Image.open(photo).convert("RGB"), 24, 0
    used: Counter[str] = Counter()
    names = {operation: name for name, operation in OPERATIONS.items()}
    for seed in range(600):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            [square] = cropped([frame], size)
            operations = [(names[operation], sign) for operation, sign in drawn()]
        [found] = augmented([frame], size, seed)
        for name, sign in operations:
            square = EXPECTED[name](square, sign)
        assert found == square
        used.update(name for name, _ in operations)
        unchanged += all(name == "identity" for name, _ in operations)
    assert 0.25 < unchanged / 600 < 0.36
    assert used.keys() == OPERATIONS.keys()
    assert max(used.values()) < 2 * min(used.values())


def test_a_timm_model_sees_the_centre_of_a_larger_square(photo: Path) -> None:
    """Its own evaluation transform of the square: 0.9 of 248 pixels."""
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    transform = create_transform(
        (3, 224, 224), interpolation="bicubic", mean=mean, std=std, crop_pct=0.9
    )
    decoder = ImageDecoder(224, mean, std, crop_pct=0.9)
    square = Image.open(photo).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
    torch.testing.assert_close(decoder(photo), transform(square))
    assert not decoder(photo).equal(ImageDecoder(224, mean, std)(photo))
    [view] = augmented([load_image(photo)], 224, 5)
    torch.testing.assert_close(decoder(photo, 5), transform(view))


def test_frames_of_a_clip_are_augmented_alike(photo: Path) -> None:
    frame = Image.open(photo).convert("RGB")
    for seed in range(10):
        clip = augmented([frame] * 3, 24, seed)
        assert clip[0] == clip[1] == clip[2]
        assert augmented([frame], 24, seed)[0] == clip[0]


def test_grey_of_16_bits_in_pgm_is_scaled_as_in_png(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 3, 257 * 128, 65535]], dtype=">u2")
    path = tmp_path / "image.pgm"
    path.write_bytes(b"P5 4 1 65535\n" + values.tobytes())
    assert [pixel(load_image(path), x, 0)[0] for x in range(4)] == [0, 3, 128, 255]
    path.write_bytes(b"P5 4 1 4095\n" + (values // 16).astype(">u2").tobytes())
    assert [pixel(load_image(path), x, 0)[0] for x in range(4)] == pytest.approx(
        [0, 3, 128, 255], abs=1
    )


def test_cmyk_of_a_camera_programme_is_not_inverted(tmp_path: Path) -> None:
    """Adobe writes the inks of a JPEG inverted, and says so in a marker that Pillow writes too."""
    image = load_image(saved(left_right(32, 16).convert("CMYK"), tmp_path / "a.jpg", quality=95))
    np.testing.assert_allclose(pixel(image, 2, 2), RED, atol=25)
    np.testing.assert_allclose(pixel(image, 30, 14), BLUE, atol=25)
