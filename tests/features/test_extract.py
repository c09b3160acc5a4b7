"""Extraction: the store holds what the backbone says of each file, whoever decoded it, and when."""

import os
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from depalm.backbones.files import BackboneError
from depalm.backbones.load import load_backbone
from depalm.cache.errors import CacheError
from depalm.cache.formats import arrays_of
from depalm.cache.reader import Rejected, TokenCache
from depalm.cache.store import open_folder, shard_files
from depalm.features import extract as extraction
from depalm.features.extract import (
    Encoder,
    Extracted,
    Extraction,
    ExtractionError,
    extract,
    media_of_shard,
)
from depalm.files import sha256_file, sha256_tree
from depalm.identity import token_identity
from depalm.media.decoders import load_decoder, view_seed
from depalm.media.pool import ChangedFile
from depalm.rejects import Reject, RejectError
from tests.support.media_files import write_images
from tests.support.specs import backbone_spec
from tests.support.vit import SPEC, VIT, tiny_vit

MEDIA = [f"images/{i}.png" for i in range(7)]
LAYERS = [9, 11]
ARRAYS = arrays_of("cls-9-11")
SETTINGS = Extraction(batch_size=3)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Weights of a tiny backbone, and seven images of random colours."""
    tiny_vit(tmp_path / "weights")
    write_images(tmp_path, MEDIA)
    return tmp_path


def keys_of(data: Path, media: list[str] = MEDIA) -> dict[str, str]:
    return {name: sha256_file(data / name) for name in media}


def run(
    data: Path,
    store: str = "store",
    settings: Extraction = SETTINGS,
    media: Mapping[str, str] | None = None,
    arrays: list[str] = ARRAYS,
    view: int = 0,
) -> Extracted:
    encoder = Encoder("vit", VIT, data / "weights", view)
    keys = keys_of(data) if media is None else media
    return extract(encoder, data, keys, arrays, data / store, settings, "cpu")


def opened(done: Extracted) -> TokenCache:
    return open_folder(done.folder, {})


def rows(done: Extracted, keys: Mapping[str, str]) -> torch.Tensor:
    """All rows as they were stored: [N, 2, T, D]."""
    return opened(done).read(list(keys.values()), LAYERS, cls_only=False)


def test_the_store_holds_the_backbones_tokens(data: Path) -> None:
    done, keys = run(data), list(keys_of(data).values())
    assert (done.rejects, done.forwarded) == ([], 7)
    decoder = load_decoder(VIT)
    pixels = torch.stack([decoder(data / name) for name in MEDIA])
    expected = load_backbone(VIT, data / "weights")(pixels)
    cache = opened(done)
    tokens = cache.read(keys, LAYERS, cls_only=False)
    torch.testing.assert_close(tokens.float(), expected[:, LAYERS], atol=2e-3, rtol=2e-3)
    cls = cache.read(keys, [0, 5], cls_only=True)
    torch.testing.assert_close(cls.float(), expected[:, [0, 5], :1], atol=2e-3, rtol=2e-3)
    assert tokens.std() > 0.1
    other = token_identity(backbone_spec({**SPEC, "image_size": 48}))
    with pytest.raises(CacheError, match=r"transform\.resize: \[32, 32\]"):
        open_folder(done.folder, {"transform": other["transform"]})


def test_bytes_do_not_depend_on_the_workers(data: Path) -> None:
    digests = [
        sha256_tree(run(data, f"{workers}", replace(SETTINGS, workers=workers)).folder)
        for workers in (1, 2, 3)
    ]
    assert len(set(digests)) == 1


def test_a_row_is_the_same_bytes_whatever_was_extracted_with_it(data: Path) -> None:
    """All at once; in three overlapping parts in another order, array by array; one by one."""
    keys = keys_of(data)
    whole = run(data, "whole")
    for start, stop, layers in ((4, 7, "11"), (2, 6, "cls-9"), (0, 7, "cls-9-11")):
        part = random.Random(0).sample(MEDIA[start:stop], stop - start)
        run(data, "parts", media={m: keys[m] for m in part}, arrays=arrays_of(layers))
    for name in reversed(MEDIA):
        single = run(data, "single", media={name: keys[name]})
    parts = run(data, "parts")
    assert parts.forwarded == 0
    for other in (parts, single):
        found, expected = opened(other), opened(whole)
        assert found.digest(keys.values(), ARRAYS) == expected.digest(keys.values(), ARRAYS)
        assert rows(other, keys).equal(rows(whole, keys))


def test_what_the_store_has_is_not_made_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(data, media=keys_of(data, MEDIA[:4]))
    before = {path: sha256_tree(path) for path in shard_files(first.folder)}
    write_images(data, ["copy/of-2.png"])
    (data / "copy/of-2.png").write_bytes((data / MEDIA[2]).read_bytes())
    again = run(data, media=keys_of(data, [*MEDIA[2:5], "copy/of-2.png"]))
    assert (first.forwarded, again.forwarded) == (4, 1)
    assert {path: sha256_tree(path) for path in before} == before
    monkeypatch.setattr(Encoder, "load", None)  # would raise if it were called
    assert run(data, media=keys_of(data, MEDIA[:5])).forwarded == 0
    (data / MEDIA[0]).write_bytes(b"another")
    (data / "weights" / "notes.md").write_text("not of the model")
    changed = {MEDIA[1]: keys_of(data)[MEDIA[1]]}
    assert run(data, media=changed).forwarded == 0


def test_a_layer_more_makes_one_pass_for_what_is_missing(data: Path) -> None:
    keys = keys_of(data)
    run(data, media=keys, arrays=["cls"])
    done = run(data, media=keys)
    assert done.forwarded == 7
    assert [list(shard.arrays) for shard in opened(done).shards].count(ARRAYS[1:]) == 1
    assert not opened(done).missing(keys[MEDIA[0]], ARRAYS)


def test_the_name_of_a_backbone_and_where_it_is_decide_no_row(data: Path) -> None:
    run(data)
    (data / "weights").rename(data / "elsewhere")
    spec = backbone_spec({**SPEC, "path": "elsewhere"})
    encoder = Encoder("another-name", spec, data / "elsewhere")
    done = extract(encoder, data, keys_of(data), ARRAYS, data / "store", SETTINGS, "cpu")
    assert done.forwarded == 0
    assert [path.name.rpartition("-")[0] for path in (data / "store").iterdir()] == ["vit"]
    bfloat16 = replace(encoder, dtype="bfloat16")
    done = extract(bfloat16, data, keys_of(data), ARRAYS, data / "store", SETTINGS, "cpu")
    assert done.forwarded == 7


def test_a_long_extraction_goes_on_shard_by_shard(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "SHARD_BYTES", 1)
    keys, failing = keys_of(data), keys_of(data)
    failing[MEDIA[4]] = "0" * 64
    with pytest.raises(ChangedFile, match=r"4\.png has changed since its manifest was made"):
        run(data, media=failing)
    done = run(data, media=keys)
    assert done.forwarded == 3
    assert len(shard_files(done.folder)) == 7
    assert rows(done, keys).equal(rows(run(data, "whole"), keys))


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
    keys = keys_of(data)
    whole = rows(run(data, "whole"), keys)
    for name in MEDIA[3:6]:  # a whole batch
        (data / name).write_bytes(b"")
    (data / MEDIA[1]).write_bytes(b"no image")
    now = keys_of(data)
    settings = replace(SETTINGS, workers=workers, max_reject_fraction=0.6)
    done = run(data, settings=settings, media=now)
    assert done.rejects == [
        Reject(MEDIA[1], MEDIA[1], "not an image that Pillow knows"),
        *(Reject(name, name, "the file is empty") for name in MEDIA[3:6]),
    ]
    cache = opened(done)
    assert cache.rejected == {now[r.media]: Rejected(r.reason) for r in done.rejects}
    kept = [keys[MEDIA[i]] for i in (0, 2, 6)]
    assert cache.read(kept, LAYERS, cls_only=False).equal(whole[[0, 2, 6]])
    with pytest.raises(CacheError, match="it was rejected"):
        cache.read([now[MEDIA[3]]], LAYERS, cls_only=False)
    again = run(data, settings=settings, media=now)
    assert (again.rejects, again.forwarded) == (done.rejects, 0)  # remembered


def test_the_tolerance_is_of_the_split_whatever_its_parts_are(data: Path) -> None:
    (data / MEDIA[2]).write_bytes(b"")
    keys = keys_of(data)
    settings = replace(SETTINGS, max_reject_fraction=0.15)  # one of seven, but none of two
    encoder = Encoder("vit", VIT, data / "weights")
    for i in range(3):
        part = {name: keys[name] for name in media_of_shard(MEDIA, i, 3)}
        extract(encoder, data, part, ARRAYS, data / "store", settings, "cpu", split_size=7)
    with pytest.raises(RejectError, match="1 of 7 rejected"):
        run(data, settings=SETTINGS, media=keys)


def test_a_stuck_file_is_set_aside_in_time_and_tried_again_with_more(data: Path) -> None:
    keys = keys_of(data)
    (data / MEDIA[1]).rename(data / "whole.png")
    os.mkfifo(data / MEDIA[1])
    settings = replace(SETTINGS, decode_seconds=2, max_reject_fraction=0.2)
    done = run(data, settings=settings, media=keys)
    assert done.rejects == [Reject(MEDIA[1], MEDIA[1], "decoding took longer than 2 s")]
    others = [keys[name] for name in MEDIA if name != MEDIA[1]]
    assert len(opened(done).read(others, LAYERS, cls_only=False)) == 6
    (data / MEDIA[1]).unlink()
    (data / "whole.png").rename(data / MEDIA[1])
    assert run(data, settings=settings, media=keys).forwarded == 0
    more = run(data, settings=replace(settings, decode_seconds=3), media=keys)
    assert (more.forwarded, more.rejects) == (1, [])


def test_views_differ_and_each_is_always_the_same(data: Path) -> None:
    keys = keys_of(data)
    clean, first, second = (rows(run(data, view=number), keys) for number in range(3))
    again = rows(run(data, "again", replace(SETTINGS, workers=2), view=1), keys)
    assert again.equal(first)
    decoder = load_decoder(VIT)
    pixels = torch.stack([decoder(data / name, view_seed(keys[name], 1)) for name in MEDIA])
    expected = load_backbone(VIT, data / "weights")(pixels)[:, LAYERS]
    torch.testing.assert_close(first.float(), expected, atol=2e-3, rtol=2e-3)
    for i in range(len(MEDIA)):
        assert not torch.equal(first[i], clean[i])
        assert not torch.equal(first[i], second[i])


def test_more_bad_files_than_tolerated_fail_by_name_and_leave_nothing(data: Path) -> None:
    (data / MEDIA[2]).write_bytes(b"no image")
    with pytest.raises(RejectError, match=r"1 of 7 rejected .*images/2\.png.*over max_reject"):
        run(data)
    (folder,) = (data / "store").glob("vit-*/view0")
    assert [path.name for path in folder.iterdir()] == [".claims"]
    assert list((folder / ".claims").iterdir()) == []


def test_too_small_a_disk_is_found_before_anything_is_loaded(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    monkeypatch.setattr(Encoder, "load", None)
    with pytest.raises(CacheError, match=r"takes .* kB: .* kB more than the 1\.0 kB that are free"):
        run(data)


def test_a_failing_writer_ends_the_job(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("depalm.cache.zarr_shard.AppendedArray.append", fail)
    with pytest.raises(CacheError, match="no space left on the disk"):
        run(data)
    assert not list(data.glob("store/*/*/*.zarr"))


def test_the_stated_shape_must_be_the_models(data: Path) -> None:
    spec = backbone_spec({**SPEC, "shape": {**SPEC["shape"], "width": 384}})
    encoder = Encoder("vit", spec, data / "weights")
    with pytest.raises(BackboneError, match="its YAML says"):
        extract(encoder, data, keys_of(data), ARRAYS, data / "store", SETTINGS, "cpu")


def test_a_file_that_changes_meanwhile_ends_the_job(data: Path) -> None:
    keys = keys_of(data)
    (data / MEDIA[3]).write_bytes((data / MEDIA[2]).read_bytes())
    with pytest.raises(ChangedFile, match=r"3\.png has changed since its manifest was made: run"):
        run(data, media=keys)


def test_the_last_batch_is_padded_to_the_size_of_the_others() -> None:
    inputs = torch.arange(6.0).view(2, 3)
    assert np.array_equal(extraction.padded(inputs, 4), inputs[[0, 1, 1, 1]])
    assert extraction.padded(inputs, 2) is inputs
