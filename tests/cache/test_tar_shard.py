"""Tar shards: what webdataset and tar make of them, and the same training as from zarr."""

import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset

from depalm.cache.errors import CacheError
from depalm.cache.formats import FORMATS, predicted_bytes
from depalm.cache.reader import TokenCache
from depalm.cache.writer import write_shard
from depalm.training.batches import encode
from depalm.training.loop import train
from tests.support.features import views_of
from tests.support.shards import ARRAYS, LAYERS, MEDIA, METADATA, SHAPE, tokens_of, write
from tests.support.tiny import BACKBONE, tiny_llm
from tests.support.training import SETTINGS, build, equal, samples, weights
from tests.support.web import serve


def members(path: Path) -> list[tarfile.TarInfo]:
    with tarfile.open(path) as archive:
        return archive.getmembers()


def by_webdataset(source: Path | str) -> list[dict[str, Any]]:
    dataset = webdataset.WebDataset(str(source), shardshuffle=False, empty_check=False)
    return list(dataset.decode())


def test_webdataset_reads_the_same_values(tmp_path: Path) -> None:
    path = write(tmp_path / "shard-0-of-1.tar")
    expected = tokens_of(MEDIA).half().numpy()
    found = by_webdataset(path)
    assert [sample["media.txt"] for sample in found] == MEDIA
    assert [sample["__key__"] for sample in found] == [f"{i:09d}" for i in range(len(MEDIA))]
    for i, sample in enumerate(found):
        assert sample["cls.npy"].dtype == np.float16
        assert np.array_equal(sample["cls.npy"], expected[i, :, 0])
        for layer in LAYERS:
            assert np.array_equal(sample[f"tokens.layer_{layer}.npy"], expected[i, layer])
    assert by_webdataset(write(tmp_path / "empty.tar", [])) == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset reads URLs through curl")
def test_webdataset_streams_from_a_url(tmp_path: Path) -> None:
    write(tmp_path / "shard-0-of-1.tar")
    with serve(tmp_path) as url:
        found = by_webdataset(f"{url}/shard-0-of-1.tar")
    assert [sample["media.txt"] for sample in found] == MEDIA


def test_webdataset_reads_the_bits_of_bfloat16(tmp_path: Path) -> None:
    found = by_webdataset(write(tmp_path / "shard.tar", dtype="bfloat16"))
    bits = torch.from_numpy(found[2]["tokens.layer_3.npy"])
    assert bits.dtype == torch.uint16
    assert bits.view(torch.bfloat16).equal(tokens_of(MEDIA)[2, 3].bfloat16())


def test_members_tell_neither_time_nor_user(tmp_path: Path) -> None:
    for member in members(write(tmp_path / "shard.tar")):
        assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
        assert member.uname == member.gname == ""
        assert member.isreg()


@pytest.mark.parametrize(
    "media", ["a.b/c.d.jpg", "täglich/ü 1.png", "x" * 300 + "/1.jpg", "__a__", "a.png\n.jpg"]
)
def test_any_name_of_a_file_is_an_id(tmp_path: Path, media: str) -> None:
    path = tmp_path / "shard.tar"
    tokens = tokens_of(MEDIA[:2])
    with write_shard(path, METADATA, SHAPE, ARRAYS, "float16") as shard:
        shard.add([media, "other"], shard.pack(tokens.unbind(1)))
    assert [sample["media.txt"] for sample in by_webdataset(path)] == [media, "other"]
    found = TokenCache([path], {}).read([media], LAYERS, cls_only=False)
    assert found.equal(tokens[:1, LAYERS].half())


def test_the_predicted_size_is_that_on_disk(tmp_path: Path) -> None:
    sizes = predicted_bytes(FORMATS["webdataset"], len(MEDIA), SHAPE, ARRAYS)
    found = dict.fromkeys(sizes, 0)
    for member in members(write(tmp_path / "shard.tar")):
        name = member.name.partition(".")[2].removesuffix(".npy").replace(".", "/")
        if name in found or name == "media/txt":
            offset = 8 if name in found else 0
            on_disk = tarfile.BLOCKSIZE * (1 + -(-member.size // tarfile.BLOCKSIZE))
            found["cls" if name == "media/txt" else name] += on_disk + offset
    assert found == sizes


def test_a_damaged_index_is_found_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "shard.tar")
    (offsets,) = [member for member in members(path) if member.name == "__offsets__"]
    content = bytearray(path.read_bytes())
    content[offsets.offset_data + 200] ^= 1
    path.write_bytes(content)
    with pytest.raises(CacheError, match=r"shard\.tar has a damaged index; .*verify --repair"):
        TokenCache([path], {})


def test_training_does_not_depend_on_the_format(tmp_path: Path) -> None:
    media = sorted({sample.media for sample in samples()})
    llm = tiny_llm("llama")
    data = encode(llm, samples(), 10)
    trained, checksums = [], []
    arrays = ["cls", "tokens/layer_0", "tokens/layer_1"]
    for name, known in FORMATS.items():
        paths = [tmp_path / f"shard-{i}-of-2{known.suffix}" for i in range(2)]
        for path, half in zip(paths, (media[:2], media[2:]), strict=True):
            torch.manual_seed(len(half))
            with write_shard(path, METADATA, BACKBONE, arrays, "float16") as shard:
                shard.add(half, shard.pack(torch.randn(len(half), *BACKBONE.values()).unbind(1)))
        cache = TokenCache(paths, {})
        checksums.append(cache.digest(media, arrays))
        adapter = build("qp_l0")
        views = views_of(adapter, cache)
        run = train(llm, adapter, data, views, SETTINGS, 0, tmp_path / name, {"of": "this"})
        trained.append(weights(run))
    assert checksums[0] == checksums[1]
    assert equal(*trained)
    assert not equal(trained[0], build("qp_l0").state_dict())
