"""The token cache: what is written comes back in either format, by the format's own library too;
what does not fit is refused.
"""

import errno
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import zarr
from torch import Tensor

from depalm.cache.errors import CacheError
from depalm.cache.formats import FORMATS, arrays_of, in_units, layers_of, predicted_bytes
from depalm.cache.reader import Rejected, TokenCache
from depalm.cache.writer import require_disk, write_shard
from depalm.files import sha256_tree
from tests.support.shards import ARRAYS, LAYERS, MEDIA, METADATA, SHAPE, tokens_of, write


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
    assert cache.missing(MEDIA[0], ["cls", "tokens/layer_2"]) == ["tokens/layer_2"]


def test_what_is_read_may_be_changed_without_harm(tmp_path: Path, suffix: str) -> None:
    cache = TokenCache([write(tmp_path / f"shard{suffix}")], {})
    cache.read(MEDIA, LAYERS, cls_only=False).zero_()
    assert cache.read(MEDIA, LAYERS, cls_only=False).any()


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
    assert cache.read(MEDIA, [1], cls_only=False).shape == (7, 1, 5, 6)
    assert cache.rejected == {"bad.png": Rejected("empty file")}


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


def test_rows_of_one_medium_may_lie_in_several_shards(tmp_path: Path, suffix: str) -> None:
    """Also the same row, and a medium that one of them rejected."""
    paths = [
        write(tmp_path / f"0{suffix}", MEDIA[:5], arrays=["cls", "tokens/layer_1"]),
        write(tmp_path / f"1{suffix}", arrays=["tokens/layer_3"], rejected=(MEDIA[0],)),
        write(tmp_path / f"2{suffix}", MEDIA[3:]),
    ]
    cache = TokenCache(paths, {})
    expected = tokens_of(MEDIA).half()
    assert cache.read(MEDIA, LAYERS, cls_only=False).equal(expected[:, LAYERS])
    assert cache.read(MEDIA[::-1], [2], cls_only=True).equal(expected[:, [2], :1].flip(0))
    assert cache.rejected == {}
    whole = TokenCache([write(tmp_path / f"3{suffix}")], {})
    assert cache.digest(MEDIA, ARRAYS) == whole.digest(MEDIA, ARRAYS)
    assert cache.digest(MEDIA[1:], ARRAYS) != whole.digest(MEDIA, ARRAYS)


def test_what_the_cache_lacks_is_named(tmp_path: Path) -> None:
    cache = TokenCache([write(tmp_path / "shard.zarr", rejected=("bad.png",))], {})
    with pytest.raises(CacheError, match=r"no row of images/0\.png in tokens/layer_2"):
        cache.read(MEDIA, [1, 2], cls_only=False)
    with pytest.raises(CacheError, match=r"no row of a\.png in tokens/layer_1: .*cache verify"):
        cache.read(["new"], [1], cls_only=False, names={"new": "a.png"})
    with pytest.raises(
        CacheError, match=r"no tokens of bad\.png: it was rejected at extraction \(empty file\)"
    ):
        cache.read(["bad.png"], [1], cls_only=False)


def damage(path: Path, values: Tensor) -> None:
    """Change one bit of `values` in a shard."""
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    for file in files:
        content = bytearray(file.read_bytes())
        place = content.find(bytes(values.half().numpy()))
        if place >= 0:
            content[place + 7] ^= 1
            file.write_bytes(content)


def test_a_changed_value_is_found_when_it_is_read(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"shard{suffix}")
    damage(path, tokens_of(MEDIA)[4, 3])
    cache = TokenCache([path], {})
    names = {MEDIA[4]: "4.jpg"}
    assert cache.read(MEDIA, [1], cls_only=False, names=names).any()
    assert cache.read([MEDIA[3]], [3], cls_only=False, names=names).any()
    message = r"shard\..*: the row of 4\.jpg in tokens/layer_3 is damaged; .*verify --repair"
    with pytest.raises(CacheError, match=message):
        cache.read(MEDIA, [3], cls_only=False, names=names)


def test_a_changed_bit_of_the_metadata_is_found_at_once(tmp_path: Path, suffix: str) -> None:
    """Also one that leaves it readable: in the name of a medium, or in a checksum."""
    path = write(tmp_path / f"shard{suffix}")
    file = path / "zarr.json" if path.is_dir() else path
    whole = file.read_bytes()
    for text in (b"images/5.png", b"rejected", b"crc32c"):
        content = bytearray(whole)
        content[whole.rindex(text) + 1] ^= 1
        file.write_bytes(content)
        with pytest.raises(CacheError, match=r"damaged|cut, or not"):
            TokenCache([path], {})


@pytest.mark.parametrize("length", [0, 50, -1])
def test_a_cut_file_is_found_at_once(tmp_path: Path, suffix: str, length: int) -> None:
    path = write(tmp_path / f"shard{suffix}")
    file = path / "cls/c/0/0/0" if path.is_dir() else path
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(CacheError, match="cache verify --repair"):
        TokenCache([path], {})
    file.unlink()
    with pytest.raises(CacheError, match="cache verify --repair"):
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


def test_a_failed_writer_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    tokens = tokens_of(MEDIA)
    tokens[2, 3, 1, 1] = 1e6

    def write_two_batches() -> None:
        with write_shard(tmp_path / f"shard{suffix}", METADATA, SHAPE, ARRAYS, "float16") as shard:
            shard.add(MEDIA[:2], shard.pack(tokens[:2].unbind(1)))
            shard.add(MEDIA[2:], shard.pack(tokens[2:].unbind(1)))

    with pytest.raises(CacheError, match="tokens/layer_3: a token is not finite in float16"):
        write_two_batches()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("layers", "dtype", "message"),
    [
        ("cls-4", "float16", r"must differ, and lie in 0\.\.3"),
        ("1-1", "float16", r"must differ"),
        ("1", "float32", r"unknown dtype 'float32'.*float16, bfloat16"),
    ],
)
def test_layers_and_dtype_that_cannot_be_are_refused(
    tmp_path: Path, suffix: str, layers: str, dtype: str, message: str
) -> None:
    path = tmp_path / f"shard{suffix}"
    arrays = arrays_of(layers)
    with pytest.raises(CacheError, match=message), write_shard(path, {}, SHAPE, arrays, dtype):
        pytest.fail("a writer was made")
    assert list(tmp_path.iterdir()) == []


def test_rows_of_another_shape_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"shard{suffix}"
    with (
        pytest.raises(CacheError, match=r"cls: 2 rows of \(4, 6\) are due, not \(3, 4, 6\)"),
        write_shard(path, {}, SHAPE, ARRAYS, "float16") as shard,
    ):
        shard.add(MEDIA[:2], shard.pack(tokens_of(MEDIA[:3]).unbind(1)))


def test_the_predicted_size_is_that_on_disk(tmp_path: Path) -> None:
    path = write(tmp_path / "shard.zarr")
    predicted = predicted_bytes(FORMATS["zarr"], len(MEDIA), SHAPE, ARRAYS)
    checksum = 4
    for name, size in predicted.items():
        assert (path / name / "c/0/0/0").stat().st_size == size + checksum
    assert predicted.keys() == {"cls", "tokens/layer_1", "tokens/layer_3"}


def test_too_small_a_disk_is_an_error(tmp_path: Path) -> None:
    require_disk(tmp_path / "not/yet/there.zarr", 1)
    with pytest.raises(CacheError, match=r"there\.zarr takes 1000\.0 PB: .* more than the .* free"):
        require_disk(tmp_path / "not/yet/there.zarr", 10**18)


def test_a_disk_that_fills_up_ends_the_writer_and_leaves_nothing(
    tmp_path: Path, suffix: str
) -> None:
    def fill() -> None:
        with write_shard(tmp_path / f"shard{suffix}", METADATA, SHAPE, ARRAYS, "float16") as shard:
            shard.add(MEDIA[:2], shard.pack(tokens_of(MEDIA[:2]).unbind(1)))
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CacheError, match=r"shard\..*: no space left on the disk; .*Make room"):
        fill()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (14_200_000, "14.2 MB"), (999_960, "1.0 MB")],
)
def test_sizes_are_told_in_the_unit_that_fits(size: int, text: str) -> None:
    assert in_units(size) == text


def test_layers_in_a_path_are_arrays_and_back() -> None:
    assert arrays_of("cls-3-11") == ["cls", "tokens/layer_3", "tokens/layer_11"]
    assert layers_of(["tokens/layer_11", "cls", "tokens/layer_3"]) == "cls-3-11"
    with pytest.raises(CacheError, match="names no layers"):
        arrays_of("all")


def test_metadata_says_what_the_bits_are(tmp_path: Path, suffix: str) -> None:
    for dtype, stored in {"float16": "float16", "bfloat16": "uint16"}.items():
        cache = TokenCache([write(tmp_path / f"{dtype}{suffix}", dtype=dtype)], {})
        assert METADATA.items() <= cache.metadata.items()
        assert cache.metadata["shape"] == SHAPE
        assert (cache.metadata["dtype"], cache.metadata["stored_dtype"]) == (dtype, stored)
        (shard,) = cache.shards
        assert {name: len(sums) for name, sums in shard.metadata["crc32c"].items()} == (
            dict.fromkeys(ARRAYS, len(MEDIA))
        )


def test_metadata_is_plain_json(tmp_path: Path) -> None:
    content = json.loads((write(tmp_path / "shard.zarr") / "zarr.json").read_text())
    metadata = content["attributes"]["depalm"]
    assert METADATA.items() <= metadata.items()
    assert metadata["shape"] == SHAPE
    assert metadata["crc32c"].keys() == set(ARRAYS)
