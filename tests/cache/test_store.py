"""The token cache: what is written comes back in either format, by the format's own library too;
what does not fit is refused.
"""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import zarr
from torch import Tensor

from depalm.cache.errors import CacheError
from depalm.cache.formats import FORMATS, predicted_bytes
from depalm.cache.reader import TokenCache
from depalm.cache.writer import require_disk, write_shard
from depalm.files import sha256_tree
from tests.support.shards import LAYERS, MEDIA, METADATA, SHAPE, tokens_of, write


@pytest.fixture(params=list(FORMATS))
def suffix(request: pytest.FixtureRequest) -> str:
    return FORMATS[request.param].suffix


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_reading_gives_back_what_was_written_in_any_order(
    tmp_path: Path, suffix: str, dtype: str
) -> None:
    paths = [
        write(tmp_path / f"shard-0-of-2{suffix}", MEDIA[:4], dtype=dtype),
        write(tmp_path / f"shard-1-of-2{suffix}", MEDIA[4:], dtype=dtype),
    ]
    cache = TokenCache(paths, {"backbone": METADATA["backbone"], "dtype": dtype})
    order = [6, 0, 3, 0, 5]
    chosen = [MEDIA[i] for i in order]
    expected = tokens_of(MEDIA)[order].to(getattr(torch, dtype))
    tokens = cache.read(chosen, [3, 1], cls_only=False)
    assert tokens.dtype == expected.dtype
    assert tokens.equal(expected[:, [3, 1]])
    assert cache.read(chosen, [0, 2, 3], cls_only=True).equal(expected[:, [0, 2, 3], :1])
    assert cache.read([], [1], cls_only=False).shape == (0, 1, 5, 6)
    cache.verify()


def test_what_is_read_may_be_changed_without_harm(tmp_path: Path, suffix: str) -> None:
    cache = TokenCache([write(tmp_path / f"shard{suffix}")], {})
    cache.read(MEDIA, LAYERS, cls_only=False).zero_()
    assert cache.read(MEDIA, LAYERS, cls_only=False).any()
    cache.verify()


def plain(path: Path, name: str) -> tuple[zarr.Array[Any], Tensor]:
    """An array of a shard as zarr alone reads it."""
    array = zarr.open_array(path, path=name, mode="r")
    return array, torch.from_numpy(array[:])


def test_plain_zarr_reads_the_same_values(tmp_path: Path) -> None:
    path = write(tmp_path / "shard.zarr")
    expected = tokens_of(MEDIA).half()
    for name, values in {"cls": expected[:, :, 0], "tokens/layer_3": expected[:, 3]}.items():
        array, found = plain(path, name)
        assert found.equal(values)
        assert torch.from_numpy(array[5]).equal(values[5])
        assert array.chunks == (1, *values.shape[1:])
        assert array.shards == values.shape
    assert len(list(zarr.open_group(path, path="tokens", mode="r"))) == len(LAYERS)
    assert plain(write(tmp_path / "empty.zarr", []), "cls")[1].shape == (0, 4, 6)
    _, bits = plain(write(tmp_path / "b.zarr", dtype="bfloat16"), "cls")
    assert bits.view(torch.bfloat16).equal(expected[:, :, 0].bfloat16())


def test_bytes_do_not_depend_on_how_the_samples_arrive(tmp_path: Path, suffix: str) -> None:
    digests = {
        sha256_tree(write(tmp_path / f"{batch_size}/shard{suffix}", batch_size=batch_size).parent)
        for batch_size in (1, 3, 7)
    }
    assert len(digests) == 1


def test_an_empty_shard_reads_with_the_others(tmp_path: Path, suffix: str) -> None:
    paths = [
        write(tmp_path / f"0{suffix}"),
        write(tmp_path / f"1{suffix}", [], rejected=("bad.png",)),
    ]
    cache = TokenCache(paths, {})
    cache.verify()
    assert cache.read(MEDIA, [1], cls_only=False).shape == (7, 1, 5, 6)
    assert cache.rejected == {"bad.png": "empty file"}


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("backbone.image_size", "224", {"backbone": {**METADATA["backbone"], "image_size": 224}}),
        (
            "backbone.source.uri",
            "hf://a/b@other",
            {"backbone": {**METADATA["backbone"], "source": {"uri": "hf://a/b@other"}}},
        ),
        ("backbone.norm", "none", {"backbone": {**METADATA["backbone"], "norm": "none"}}),
        ("backbone.image_size", "None", {"backbone": {"model": "vit"}}),
        ("transform.mean", "0.4", {"transform": {"image_size": 28, "mean": [0.4, 0.5, 0.5]}}),
        ("dtype", "bfloat16", {"dtype": "bfloat16"}),
        ("weights_sha256", "cd", {"weights_sha256": "cd"}),
    ],
)
def test_a_cache_made_for_something_else_is_refused(
    tmp_path: Path, suffix: str, field: str, value: str, expected: dict[str, Any]
) -> None:
    path = write(tmp_path / f"shard{suffix}")
    with pytest.raises(CacheError, match=rf"shard\{suffix} was made with {field}: .*{value}"):
        TokenCache([path], expected)


def test_shards_of_different_caches_are_refused(tmp_path: Path, suffix: str) -> None:
    paths = [
        write(tmp_path / f"0{suffix}", MEDIA[:3]),
        write(tmp_path / f"1{suffix}", MEDIA[3:], {**METADATA, "weights_sha256": "other"}),
    ]
    with pytest.raises(CacheError, match=rf"1\{suffix} was made with weights_sha256: 'other'"):
        TokenCache(paths, {})
    with pytest.raises(CacheError, match="in two shards"):
        TokenCache([paths[0], paths[0]], {})


def test_what_the_cache_lacks_is_named(tmp_path: Path) -> None:
    cache = TokenCache([write(tmp_path / "shard.zarr", rejected=("bad.png",))], {})
    with pytest.raises(CacheError, match=r"all tokens of layers \[1, 3\], not of \[2\]"):
        cache.read(MEDIA, [1, 2], cls_only=False)
    with pytest.raises(CacheError, match=r"CLS of layers \[0, 1, 2, 3\], not of \[4\]"):
        cache.read(MEDIA, [4], cls_only=True)
    with pytest.raises(CacheError, match=r"no tokens of new\.png: extract again"):
        cache.read(["new.png"], [1], cls_only=False)
    with pytest.raises(
        CacheError, match=r"no tokens of bad\.png: it was rejected at extraction \(empty file\)"
    ):
        cache.read(["bad.png"], [1], cls_only=False)


def test_a_changed_value_is_found_by_verify(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"shard{suffix}")
    file = path / "tokens/layer_3/c/0/0/0" if path.is_dir() else path
    content = bytearray(file.read_bytes())
    place = content.find(bytes(tokens_of(MEDIA)[4, 3].half().numpy()))
    content[place + 7] ^= 1
    file.write_bytes(content)
    with pytest.raises(CacheError, match="tokens/layer_3 is damaged"):
        TokenCache([path], {}).verify()


@pytest.mark.parametrize("length", [0, 50, -1])
def test_a_cut_file_is_found_at_once(tmp_path: Path, suffix: str, length: int) -> None:
    path = write(tmp_path / f"shard{suffix}")
    file = path / "cls/c/0/0/0" if path.is_dir() else path
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(CacheError, match="extract it again"):
        TokenCache([path], {})
    file.unlink()
    with pytest.raises(CacheError, match="extract it again"):
        TokenCache([path], {})


def test_what_is_no_shard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="not a zarr group"):
        TokenCache([tmp_path / "absent.zarr"], {})
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(CacheError, match="not a shard of a token cache"):
        TokenCache([tmp_path / "other.zarr"], {})
    with tarfile.open(tmp_path / "other.tar", "w") as archive:
        archive.add(tmp_path / "other.zarr")
    with pytest.raises(CacheError, match=r"other\.tar is cut, or not a shard of a token cache"):
        TokenCache([tmp_path / "other.tar"], {})
    with pytest.raises(CacheError, match=r"shard\.npz has not the suffix.*: \.zarr, \.tar"):
        TokenCache([tmp_path / "shard.npz"], {})
    with pytest.raises(CacheError, match="at least one"):
        TokenCache([], {})


def test_a_failed_writer_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    tokens = tokens_of(MEDIA)
    tokens[2, 3, 1, 1] = 1e6

    def write_two_batches() -> None:
        with write_shard(tmp_path / f"shard{suffix}", METADATA, SHAPE, LAYERS, "float16") as shard:
            shard.add(MEDIA[:2], shard.pack(tokens[:2]))
            shard.add(MEDIA[2:], shard.pack(tokens[2:]))

    with pytest.raises(CacheError, match="tokens/layer_3: a token is not finite in float16"):
        write_two_batches()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("layers", "dtype", "message"),
    [
        ([1, 4], "float16", r"layers \[1, 4\] must differ, and lie in 0\.\.3"),
        ([1, 1], "float16", r"layers \[1, 1\] must differ"),
        ([1], "float32", r"unknown dtype 'float32'.*\['bfloat16', 'float16'\]"),
    ],
)
def test_layers_and_dtype_that_cannot_be_are_refused(
    tmp_path: Path, suffix: str, layers: list[int], dtype: str, message: str
) -> None:
    path = tmp_path / f"shard{suffix}"
    with pytest.raises(CacheError, match=message), write_shard(path, {}, SHAPE, layers, dtype):
        pytest.fail("a writer was made")
    assert list(tmp_path.iterdir()) == []


def test_rows_of_another_shape_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"shard{suffix}"
    with (
        pytest.raises(CacheError, match=r"cls: 2 rows of \(4, 6\) are due, not \(3, 4, 6\)"),
        write_shard(path, {}, SHAPE, LAYERS, "float16") as shard,
    ):
        shard.add(MEDIA[:2], shard.pack(tokens_of(MEDIA[:3])))


def test_the_predicted_size_is_that_on_disk(tmp_path: Path) -> None:
    path = write(tmp_path / "shard.zarr")
    predicted = predicted_bytes(FORMATS["zarr"], len(MEDIA), SHAPE, LAYERS)
    checksum = 4
    for name, size in predicted.items():
        assert (path / name / "c/0/0/0").stat().st_size == size + checksum
    assert predicted.keys() == {"cls", "tokens/layer_1", "tokens/layer_3"}


def test_too_small_a_disk_is_an_error(tmp_path: Path) -> None:
    require_disk(tmp_path / "not/yet/there.zarr", 1)
    with pytest.raises(CacheError, match=r"there\.zarr needs 1000000000\.00 GB, but the disk has"):
        require_disk(tmp_path / "not/yet/there.zarr", 10**18)


def test_metadata_says_what_the_bits_are(tmp_path: Path, suffix: str) -> None:
    for dtype, stored in {"float16": "float16", "bfloat16": "uint16"}.items():
        cache = TokenCache([write(tmp_path / f"{dtype}{suffix}", dtype=dtype)], {})
        assert METADATA.items() <= cache.metadata.items()
        assert cache.metadata["shape"] == SHAPE
        assert (cache.metadata["dtype"], cache.metadata["stored_dtype"]) == (dtype, stored)
        (checksums,) = cache.checksums
        assert checksums.keys() == {"cls", "tokens/layer_1", "tokens/layer_3"}


def test_metadata_is_plain_json(tmp_path: Path) -> None:
    attributes = json.loads((write(tmp_path / "shard.zarr") / "zarr.json").read_text())[
        "attributes"
    ]
    assert METADATA.items() <= attributes.items()
    assert attributes["shape"] == SHAPE
    assert attributes["sha256"].keys() == {"cls", "tokens/layer_1", "tokens/layer_3"}
