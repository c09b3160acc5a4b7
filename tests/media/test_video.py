"""Decoding of videos: the frames shown at the right times, whoever reads them, or a reason."""

import logging
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from depalm.media import video
from depalm.media.decoders import load_decoder
from depalm.media.video import load_frames
from depalm.rejects import MediaError
from tests.support.media_files import grey, shared, write_sound, write_video
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
READERS = ["decord", "PyAV"]


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reader in turn: without decord there is PyAV."""
    if request.param == "PyAV":
        monkeypatch.setattr(video, "decord", None)
    elif video.decord is None:
        pytest.skip("decord is not installed: it has no wheels for this platform")


def numbers(frames: list[Image.Image]) -> list[int]:
    """Which frames of `write_video` these are."""
    assert all(frame.size == (64, 48) and frame.mode == "RGB" for frame in frames)
    values = np.array([np.asarray(frame).mean() for frame in frames])
    found = (values - grey(0)) / (grey(1) - grey(0))
    np.testing.assert_allclose(found, found.round(), atol=0.45)
    return found.round().astype(int).tolist()


@pytest.mark.usefixtures("reader")
def test_the_middle_frame_of_each_segment(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", np.arange(48) / 25)
    assert numbers(load_frames(path, 16)) == [3 * i + 1 for i in range(16)]
    assert numbers(load_frames(path, 1)) == [24]


@pytest.mark.usefixtures("reader")
def test_segments_are_spans_of_time_not_of_frames(tmp_path: Path) -> None:
    times = [*(np.arange(10) / 100), *(0.1 + np.arange(4))]  # 10 frames in 0.1 s, then 1 a second
    path = write_video(tmp_path / "video.mp4", times)
    assert numbers(load_frames(path, 4))[1:] == [11, 12, 13]
    assert numbers(load_frames(path, 4))[0] == 10


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("count", [1, 3])
def test_few_frames_are_shown_repeatedly(tmp_path: Path, count: int) -> None:
    path = write_video(tmp_path / "video.mp4", np.arange(count) / 25)
    found = numbers(load_frames(path, 6))
    assert found == sorted(found)
    assert set(found) == set(range(count))


@pytest.mark.usefixtures("reader")
def test_a_seed_draws_a_frame_of_each_segment(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", np.arange(48) / 25)
    draws = [numbers(load_frames(path, 6, seed)) for seed in range(6)]
    for draw in draws:
        assert [number // 8 for number in draw] == list(range(6))
    assert len(set(map(tuple, draws))) == 6
    assert numbers(load_frames(path, 6, 0)) == draws[0]


def test_frames_are_pixels_and_augmented_alike(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", [0.0])
    decoder = load_decoder(backbone_spec(SPEC))
    clean = decoder(path)
    assert clean.shape == (4, 3, 24, 24)
    assert clean.dtype == torch.float32
    torch.testing.assert_close(clean, torch.full_like(clean, 40 / 127.5 - 1), atol=0.02, rtol=0)
    views = [decoder(path, seed) for seed in range(8)]
    for view in views:
        assert all(torch.equal(frame, view[0]) for frame in view)
    assert not all(torch.equal(view, clean) for view in views)
    assert torch.equal(decoder(path, 3), views[3])


@pytest.mark.usefixtures("reader")
def test_a_turned_video_is_upright(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", [0.0])
    content = bytearray(path.read_bytes())
    plain = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    place = content.index(plain, content.index(b"tkhd"))
    content[place : place + len(plain)] = turned
    path.write_bytes(content)
    assert load_frames(path, 1)[0].size == (48, 64)


@pytest.mark.usefixtures("reader")
def test_what_cannot_be_decoded_is_refused_with_a_reason(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", np.arange(48) / 25).read_bytes()
    cut = write_video(tmp_path / "cut.avi", np.arange(48) / 25, "mpeg4").read_bytes()
    image = tmp_path / "image.png"
    Image.new("RGB", (4, 4)).save(image)
    sound = write_sound(tmp_path / "sound.mp4", np.sin(np.arange(8000) / 10), 8000)
    contents = {
        "empty.mp4": (b"", "the file is empty"),
        "text.mp4": (b"<html>404</html>", "cannot be decoded: .*Invalid data"),
        "truncated.mp4": (whole[: len(whole) // 2], "cannot be decoded: .*Invalid data"),
        "truncated.avi": (cut[: len(cut) // 2], "truncated: 0.[0-9] of 1.9 s|cannot be decoded"),
        "sound.mp4": (sound.read_bytes(), "it has no video"),
    }
    for name, (content, reason) in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(MediaError, match=reason):
            load_frames(path, 4)
    with pytest.raises(MediaError, match="no such file"):
        load_frames(tmp_path / "absent.mp4", 4)


@pytest.mark.usefixtures("reader")
def test_the_name_does_not_matter(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", np.arange(8) / 25)
    assert numbers(load_frames(path.rename(tmp_path / "video.jpg"), 2)) == [2, 6]


def test_what_decord_cannot_read_pyav_does_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if video.decord is None:
        pytest.skip("decord is not installed: it has no wheels for this platform")
    path = write_video(tmp_path / "video.avi", np.arange(48) / 25, "mpeg4", bf="2", b="8M")
    with caplog.at_level(logging.WARNING):
        assert numbers(load_frames(path, 16)) == [3 * i + 1 for i in range(16)]
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{path}: decord cannot read it (its frames have no times): trying PyAV"
    )


def test_a_real_clip_of_msvd_is_read_in_order() -> None:
    """AVI with B-frames, of which decord alone gives wrong frames."""
    (path,) = shared("video-caption/videos/all", "klteYv1Uv9A_27_33.avi")
    with av.open(str(path)) as container:
        whole = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    expected = [whole[(2 * i + 1) * len(whole) // 32] for i in range(16)]
    np.testing.assert_array_equal(np.stack(load_frames(path, 16)), np.stack(expected))


def test_both_readers_see_the_same_in_a_real_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    if video.decord is None:
        pytest.skip("decord is not installed: it has no wheels for this platform")
    clips = shared("video-caption/videos/all", "fGGYeXR_LS8_30.mp4")
    pairs = []
    for module in (video.decord, None):
        monkeypatch.setattr(video, "decord", module)
        pairs.append([np.stack(load_frames(clip, 3)) for clip in clips])
    for first, second in zip(*pairs, strict=True):
        assert first.std() > 20
        assert np.abs(first.astype(int) - second).mean() < 1
