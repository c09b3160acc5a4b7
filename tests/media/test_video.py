"""Decoding of videos: the frames shown at the right times, whoever reads them, or a reason."""

import logging
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from depalm.media import frames as media_frames
from depalm.media.decoders import load_decoder
from depalm.media.image import cropped
from depalm.media.video import augmented, load_frames
from depalm.rejects import MediaError
from tests.support.media_files import case, grey, shared, write_sound, write_video
from tests.support.specs import backbone_spec

SPEC = {
    "version": 1,
    "loader": "any",
    "path": "weights",
    "shape": {"layers": 1, "tokens": 2, "width": 3},
    "modality": "video",
    "frames": 4,
    "image_size": 24,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}
needs_decord = pytest.mark.skipif(
    media_frames.decord is None, reason="decord is not installed: it has no wheels here"
)


@pytest.fixture(params=["pyav", pytest.param("decord", marks=needs_decord)])
def reader(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def numbers(frames: list[Image.Image]) -> list[int]:
    """Which frames of `write_video` these are."""
    assert all(frame.size == (64, 48) and frame.mode == "RGB" for frame in frames)
    values = np.array([np.asarray(frame).mean() for frame in frames])
    found = (values - grey(0)) / (grey(1) - grey(0))
    np.testing.assert_allclose(found, found.round(), atol=0.45)
    return found.round().astype(int).tolist()


def test_the_middle_frame_of_each_segment(tmp_path: Path, reader: str) -> None:
    path = write_video(tmp_path / "video.mp4", np.arange(48) / 25)
    assert numbers(load_frames(path, 16, reader=reader)) == [3 * i + 1 for i in range(16)]
    assert numbers(load_frames(path, 1, reader=reader)) == [24]


def test_segments_are_spans_of_time_not_of_frames(tmp_path: Path, reader: str) -> None:
    times = [*(np.arange(10) / 100), *(0.1 + np.arange(4))]  # 10 frames in 0.1 s, then 1 a second
    path = write_video(tmp_path / "video.mp4", times)
    assert numbers(load_frames(path, 4, reader=reader))[1:] == [11, 12, 13]
    assert numbers(load_frames(path, 4, reader=reader))[0] == 10


@pytest.mark.parametrize("count", [1, 3])
def test_few_frames_are_shown_repeatedly(tmp_path: Path, count: int, reader: str) -> None:
    path = write_video(tmp_path / "video.mp4", np.arange(count) / 25)
    found = numbers(load_frames(path, 6, reader=reader))
    assert found == sorted(found)
    assert set(found) == set(range(count))


def test_a_seed_draws_a_frame_of_each_segment(tmp_path: Path, reader: str) -> None:
    path = write_video(tmp_path / "video.mp4", np.arange(48) / 25)
    draws = [numbers(load_frames(path, 6, seed, reader=reader)) for seed in range(6)]
    for draw in draws:
        assert [number // 8 for number in draw] == list(range(6))
    assert len(set(map(tuple, draws))) == 6
    assert numbers(load_frames(path, 6, 0, reader=reader)) == draws[0]


def test_frames_are_pixels_and_augmented_alike(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", [0.0])
    decoder = load_decoder(backbone_spec(SPEC))
    clean = decoder(path)
    assert clean.shape == (4, 3, 24, 24)
    assert clean.dtype == torch.float32
    torch.testing.assert_close(clean, torch.full_like(clean, 40 / 127.5 - 1), atol=0.08, rtol=0)
    assert clean.mean() == pytest.approx(40 / 127.5 - 1, abs=0.01)
    views = [decoder(path, seed) for seed in range(8)]
    for view in views:
        assert all(torch.equal(frame, view[0]) for frame in view)
    assert not all(torch.equal(view, clean) for view in views)
    assert torch.equal(decoder(path, 3), views[3])


def test_a_turned_video_is_upright(tmp_path: Path, reader: str) -> None:
    path = write_video(tmp_path / "video.mp4", [0.0])
    content = bytearray(path.read_bytes())
    plain = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    place = content.index(plain, content.index(b"tkhd"))
    content[place : place + len(plain)] = turned
    path.write_bytes(content)
    assert load_frames(path, 1, reader=reader)[0].size == (48, 64)


def test_what_cannot_be_decoded_is_refused_with_a_reason(tmp_path: Path, reader: str) -> None:
    whole = write_video(tmp_path / "whole.mp4", np.arange(48) / 25).read_bytes()
    cut = write_video(tmp_path / "cut.avi", np.arange(48) / 25, "mpeg4").read_bytes()
    image = tmp_path / "image.png"
    Image.new("RGB", (4, 4)).save(image)
    sound = write_sound(tmp_path / "sound.mp4", np.sin(np.arange(8000) / 10), 8000)
    contents = {
        "empty.mp4": (b"", "the file is empty"),
        "text.mp4": (b"<html>404</html>", "cannot be decoded: .*Invalid data"),
        "truncated.mp4": (whole[: len(whole) // 2], "truncated: [0-9]+ of [0-9]+ bytes are there"),
        "truncated.avi": (cut[: len(cut) // 2], "truncated: [0-9]+ of [0-9]+ bytes are there"),
        "sound.mp4": (sound.read_bytes(), "it has no video"),
    }
    for name, (content, reason) in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(MediaError, match=reason):
            load_frames(path, 4, reader=reader)
    with pytest.raises(MediaError, match="no such file"):
        load_frames(tmp_path / "absent.mp4", 4, reader=reader)


def test_the_name_does_not_matter(tmp_path: Path, reader: str) -> None:
    path = write_video(tmp_path / "video.mp4", np.arange(8) / 25)
    assert numbers(load_frames(path.rename(tmp_path / "video.jpg"), 2, reader=reader)) == [2, 6]


@needs_decord
def test_what_decord_cannot_read_pyav_does_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_video(tmp_path / "video.avi", np.arange(48) / 25, "mpeg4", bf="2", b="8M")
    with caplog.at_level(logging.WARNING):
        assert numbers(load_frames(path, 16, reader="decord")) == [3 * i + 1 for i in range(16)]
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{path}: decord cannot read it (")
    assert record.getMessage().endswith("): trying PyAV")


CODECS = [
    ("libx264", "mp4"),
    ("libx264", "mkv"),
    ("libx265", "mp4"),
    ("libvpx-vp9", "webm"),
    ("mpeg4", "avi"),
    ("mpeg2video", "mpg"),
    ("mjpeg", "avi"),
    ("ffv1", "mkv"),
]


@needs_decord
@pytest.mark.parametrize(("codec", "suffix"), CODECS)
def test_decord_gives_what_pyav_gives_codec_by_codec(
    tmp_path: Path, codec: str, suffix: str
) -> None:
    """Where decord's frames are black, repeated or others, PyAV's are taken."""
    try:
        path = write_video(tmp_path / f"video.{suffix}", np.arange(25) / 25, codec, b="8M")
    except (av.codec.codec.UnknownCodecError, av.error.FFmpegError, ValueError) as error:
        pytest.skip(f"PyAV cannot write {codec}: {error}")
    assert numbers(load_frames(path, 5, reader="decord")) == [2, 7, 12, 17, 22]
    assert numbers(load_frames(path, 5)) == [2, 7, 12, 17, 22]


@needs_decord
@pytest.mark.parametrize("fault", ["black", "repeated"])
def test_black_and_repeated_frames_of_a_decoder_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    class Faulty(media_frames.decord.VideoReader):  # type: ignore[misc, name-defined]
        def get_batch(self, indices: list[int]) -> Any:
            pictures = super().get_batch(indices).asnumpy()
            pictures[1] = pictures[0] if fault == "repeated" else 0
            return SimpleNamespace(asnumpy=lambda: pictures)

    path = write_video(tmp_path / "video.mp4", np.arange(25) / 25)
    monkeypatch.setattr(media_frames.decord, "VideoReader", Faulty)
    assert numbers(load_frames(path, 5, reader="decord")) == [2, 7, 12, 17, 22]


def test_a_seed_never_draws_the_last_frame_of_a_segment(tmp_path: Path, reader: str) -> None:
    path = write_video(tmp_path / "video.mp4", np.arange(20) / 25)  # segments of five frames
    draws = {tuple(numbers(load_frames(path, 4, seed, reader))) for seed in range(60)}
    for segment in range(4):
        drawn = {draw[segment] - 5 * segment for draw in draws}
        assert drawn == {0, 1, 2, 3}


def test_b_frames_at_the_start_and_fields_are_at_their_times(tmp_path: Path, reader: str) -> None:
    times = np.arange(50) / 25
    for name, options in {
        "b.mp4": {"bf": "3", "g": "50"},
        "b.mkv": {"bf": "3", "x264-params": "open-gop=1:keyint=10"},
        "fields.mp4": {"flags": "+ildct+ilme", "x264-params": "interlaced=1"},
        "fields.mkv": {"flags": "+ildct+ilme", "x264-params": "tff=1", "bf": "2"},
    }.items():
        path = write_video(tmp_path / name, times, **options)
        assert numbers(load_frames(path, 5, reader=reader)) == [5, 15, 25, 35, 45], name


def test_an_edit_list_is_followed() -> None:
    """Cut by stream copy at 3.3 s: the frames before are in the file, and are not shown."""
    path = case("video/cut_longgop.mp4")
    values = [round(float(np.asarray(frame).mean())) for frame in load_frames(path, 5)]
    assert values == [97, 132, 165, 197, 232]


def test_a_real_clip_of_msvd_is_read_in_order() -> None:
    """AVI with B-frames, of which decord alone gives wrong frames."""
    (path,) = shared("video-caption/videos/all", "klteYv1Uv9A_27_33.avi")
    with av.open(str(path)) as container:
        whole = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    expected = [whole[(2 * i + 1) * len(whole) // 32] for i in range(16)]
    for reader in ("pyav", "decord"):
        found = np.stack(load_frames(path, 16, reader=reader))
        np.testing.assert_array_equal(found, np.stack(expected))


@needs_decord
def test_both_readers_see_the_same_in_a_real_clip() -> None:
    for clip in shared("video-caption/videos/all", "fGGYeXR_LS8_30.mp4"):
        first, second = (np.stack(load_frames(clip, 3, None, r)) for r in ("decord", "pyav"))
        assert first.std() > 20
        assert np.abs(first.astype(int) - second).mean() < 1


def test_augmentation_is_one_draw_of_randaugment_for_all_frames() -> None:
    """With torchvision's defaults: the same as its own of each frame with the same random state."""
    random = np.random.default_rng(0)
    frames = [Image.fromarray(random.integers(0, 256, (24, 24, 3), np.uint8)) for _ in range(2)]
    for seed in range(12):
        found = augmented(frames, 24, seed)
        torch.manual_seed(seed)
        squares = cropped(frames, 24)
        state = torch.get_rng_state()
        for frame, square in zip(found, squares, strict=True):
            torch.set_rng_state(state)
            pixels = torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1)
            expected = v2.RandAugment(num_ops=2, magnitude=9)(pixels).permute(1, 2, 0)
            np.testing.assert_array_equal(np.asarray(frame), expected.numpy())


def test_frames_beyond_sane_size_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    path = write_video(tmp_path / "video.mp4", np.arange(5) / 25)
    monkeypatch.setattr(media_frames, "LARGEST", 64 * 48)
    assert len(load_frames(path, 2, reader=reader)) == 2
    monkeypatch.setattr(media_frames, "LARGEST", 64 * 48 - 1)
    with pytest.raises(MediaError, match="frames of 64 x 48 pixels are too large"):
        load_frames(path, 2, reader=reader)
