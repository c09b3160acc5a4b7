"""Extraction: the cache holds what the backbone says of each file, whoever decoded it."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from depalm.backbones.files import BackboneError
from depalm.backbones.load import load_backbone
from depalm.cache.errors import CacheError
from depalm.cache.reader import TokenCache
from depalm.features.extract import Extraction, ExtractionError, extract, media_of_shard
from depalm.files import sha256_tree
from depalm.identity import token_identity
from depalm.media.decoders import load_decoder, view_seed
from depalm.rejects import Reject, RejectError
from tests.support.media_files import write_images
from tests.support.specs import backbone_spec
from tests.support.vit import SPEC, VIT, tiny_vit

MEDIA = [f"images/{i}.png" for i in range(7)]
LAYERS = [9, 11]
SETTINGS = Extraction(batch_size=3)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Weights of a tiny backbone, and seven images of random colours."""
    tiny_vit(tmp_path / "weights")
    write_images(tmp_path, MEDIA)
    return tmp_path


def run(
    data: Path,
    name: str,
    settings: Extraction = SETTINGS,
    media: list[str] = MEDIA,
) -> tuple[Path, list[Reject]]:
    path = data / name
    return path, extract(VIT, data / "weights", data, media, LAYERS, path, settings, "cpu")


def test_the_cache_holds_the_backbones_tokens(data: Path) -> None:
    path, rejects = run(data, "shard.zarr")
    assert rejects == []
    decoder = load_decoder(VIT)
    pixels = torch.stack([decoder(data / name) for name in MEDIA])
    expected = load_backbone(VIT, data / "weights")(pixels)
    cache = TokenCache([path], token_identity(VIT))
    cache.verify()
    tokens = cache.read(MEDIA, LAYERS, cls_only=False)
    torch.testing.assert_close(tokens.float(), expected[:, LAYERS], atol=2e-3, rtol=2e-3)
    cls = cache.read(MEDIA, [0, 5], cls_only=True)
    torch.testing.assert_close(cls.float(), expected[:, [0, 5], :1], atol=2e-3, rtol=2e-3)
    assert tokens.std() > 0.1
    other = token_identity(backbone_spec({**SPEC, "image_size": 48}))
    with pytest.raises(CacheError, match=r"transform\.resize: \[32, 32\]"):
        TokenCache([path], {"transform": other["transform"]})


def test_bytes_do_not_depend_on_the_workers(data: Path) -> None:
    digests = [
        sha256_tree(run(data, f"{workers}.zarr", replace(SETTINGS, workers=workers))[0])
        for workers in (1, 2, 3)
    ]
    assert len(set(digests)) == 1


def test_shards_together_are_the_whole(data: Path) -> None:
    whole, _ = run(data, "whole.zarr")
    paths = [run(data, f"{i}.zarr", media=media_of_shard(MEDIA, i, 9))[0] for i in range(9)]
    tokens = [TokenCache(shards, {}).read(MEDIA, LAYERS, False) for shards in ([whole], paths)]
    torch.testing.assert_close(*tokens)


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 9])
def test_every_file_is_in_one_shard(shards: int) -> None:
    parts = [media_of_shard(MEDIA, shard, shards) for shard in range(shards)]
    assert [name for part in parts for name in part] == MEDIA
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_shard_outside_the_range_is_an_error() -> None:
    with pytest.raises(ExtractionError, match="no shard 2 of 2: they count from 0"):
        media_of_shard(MEDIA, 2, 2)


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_files_are_set_aside_with_a_reason(data: Path, workers: int) -> None:
    whole = TokenCache([run(data, "whole.zarr")[0]], {}).read(MEDIA, LAYERS, cls_only=False)
    for name in MEDIA[3:6]:  # a whole batch
        (data / name).write_bytes(b"")
    (data / MEDIA[1]).unlink()
    settings = replace(SETTINGS, workers=workers, max_reject_fraction=0.6)
    path, rejects = run(data, "shard.zarr", settings)
    assert rejects == [
        Reject(MEDIA[1], MEDIA[1], "no such file"),
        *(Reject(name, name, "the file is empty") for name in MEDIA[3:6]),
    ]
    cache = TokenCache([path], {})
    assert cache.rejected == {reject.media: reject.reason for reject in rejects}
    kept = cache.read([MEDIA[0], MEDIA[2], MEDIA[6]], LAYERS, cls_only=False)
    torch.testing.assert_close(kept, whole[[0, 2, 6]])
    with pytest.raises(CacheError, match="it was rejected"):
        cache.read([MEDIA[3]], LAYERS, cls_only=False)


def test_a_stuck_file_is_set_aside_in_time(data: Path) -> None:
    (data / MEDIA[1]).unlink()
    os.mkfifo(data / MEDIA[1])
    settings = replace(SETTINGS, decode_seconds=2, max_reject_fraction=0.2)
    path, rejects = run(data, "shard.zarr", settings)
    assert rejects == [Reject(MEDIA[1], MEDIA[1], "decoding took longer than 2 s")]
    assert len(TokenCache([path], {}).read([MEDIA[0], *MEDIA[2:]], LAYERS, cls_only=False)) == 6


def test_views_differ_and_each_is_always_the_same(data: Path) -> None:
    def view(number: int, name: str, settings: Extraction = SETTINGS) -> torch.Tensor:
        path = data / f"{name}.zarr"
        arguments = (VIT, data / "weights", data, MEDIA, LAYERS, path, settings, "cpu")
        assert extract(*arguments, view=number) == []
        cache = TokenCache([path], token_identity(VIT, number))
        return cache.read(MEDIA, LAYERS, cls_only=False)

    clean, first, second = (view(number, f"view{number}") for number in range(3))
    again = view(1, "again", replace(SETTINGS, batch_size=7, workers=2))
    torch.testing.assert_close(again, first)
    decoder = load_decoder(VIT)
    pixels = torch.stack([decoder(data / name, view_seed(name, 1)) for name in MEDIA])
    expected = load_backbone(VIT, data / "weights")(pixels)[:, LAYERS]
    torch.testing.assert_close(first.float(), expected, atol=2e-3, rtol=2e-3)
    for i in range(len(MEDIA)):
        assert not torch.equal(first[i], clean[i])
        assert not torch.equal(first[i], second[i])
    with pytest.raises(CacheError, match="view: 2, but this run asks for 1"):
        TokenCache([data / "view2.zarr"], token_identity(VIT, 1))


def test_more_bad_files_than_tolerated_fail_by_name_and_leave_nothing(data: Path) -> None:
    (data / MEDIA[2]).write_bytes(b"no image")
    with pytest.raises(RejectError, match=r"1 of 7 rejected .*images/2\.png.*over max_reject"):
        run(data, "out/shard.zarr")
    assert list((data / "out").iterdir()) == []


def test_too_small_a_disk_is_found_before_anything_is_loaded(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    (data / "weights/model.safetensors").unlink()
    with pytest.raises(
        CacheError, match=r"shard\.zarr needs .* GB, but the disk has 0\.00 GB free"
    ):
        run(data, "shard.zarr")


def test_a_failing_writer_ends_the_job(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("depalm.cache.zarr_shard.AppendedArray.append", fail)
    with pytest.raises(OSError, match="No space left"):
        run(data, "shard.zarr")
    assert not (data / "shard.zarr").exists()


def test_the_stated_shape_must_be_the_models(data: Path) -> None:
    spec = {**SPEC, "shape": {**SPEC["shape"], "width": 384}}
    with pytest.raises(BackboneError, match="its YAML says"):
        extract(
            backbone_spec(spec),
            data / "weights",
            data,
            MEDIA,
            LAYERS,
            data / "s.zarr",
            SETTINGS,
            "cpu",
        )
