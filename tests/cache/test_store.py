"""The token store: who extracts which rows, receipts, upkeep, and what is published."""

import shutil
import threading
from pathlib import Path

import pytest
import webdataset

from depalm.cache.errors import CacheError
from depalm.cache.maintenance import (
    copy_shard,
    held,
    listing,
    places,
    replace_shard,
    unread,
    verify,
)
from depalm.cache.published import fetch_rows, open_published, publish, published_place
from depalm.cache.reader import TokenCache, open_shard
from depalm.cache.store import (
    Claims,
    open_folder,
    read_receipt,
    shard_files,
    view_folder,
    write_receipt,
)
from tests.support.shards import ARRAYS, LAYERS, MEDIA, METADATA, tokens_of, write

KEYS = {f"name of {key}": key for key in MEDIA}
PLACE = "vit-0/view0"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two shards: some arrays of all media, and one array of some more."""
    folder = tmp_path / "store" / PLACE
    write(folder / "a.zarr", MEDIA[:5])
    write(folder / "b.tar", MEDIA[3:], rejected=("bad.png",))
    return tmp_path / "store"


def test_an_encoder_has_one_folder_whatever_it_is_called(tmp_path: Path) -> None:
    folder = view_folder(tmp_path, "vit", {"weights": "a"}, 1)
    assert folder.name == "view1"
    assert folder.parent.name.startswith("vit-")
    folder.mkdir(parents=True)
    assert view_folder(tmp_path, "other", {"weights": "a"}, 1) == folder
    assert view_folder(tmp_path, "vit", {"weights": "b"}, 1) != folder
    assert len(view_folder(tmp_path, "x" * 250, {}, 0).parent.name) < 120


def test_no_two_jobs_claim_the_same_rows_and_the_second_waits(tmp_path: Path) -> None:
    claims, missing = Claims(tmp_path), {"a", "b", "c"}
    ended: list[str] = []
    with claims.claimed(lambda: sorted(missing)[:2]) as (first, busy, _):
        assert (first, busy) == (["a", "b"], [])
        with Claims(tmp_path).claimed(lambda: sorted(missing)) as (second, others, held_by):
            assert second == ["c"]
            assert len(others) == 1
            held_by.check()
        waiting = threading.Thread(target=lambda: (claims.wait(others[0]), ended.append("waited")))
        waiting.start()
        waiting.join(0.3)
        assert not ended
        ended.append("first")
    waiting.join(30)
    assert ended == ["first", "waited"]
    assert [path.name for path in (tmp_path / ".claims").iterdir()] == []


def test_a_receipt_tells_the_rows_and_not_where_they_lie(store: Path, tmp_path: Path) -> None:
    media = {**KEYS, "the bad one": "bad.png"}
    cache = open_folder(store / PLACE, {})
    assert write_receipt(tmp_path / "r.json", cache, PLACE, media, ARRAYS) == {
        "the bad one": "empty file"
    }
    receipt = read_receipt(tmp_path / "r.json")
    assert (receipt["media"], receipt["rows"], receipt["arrays"]) == (8, 7, ARRAYS)
    other = TokenCache([write(tmp_path / "whole.tar", rejected=("bad.png",))], {})
    write_receipt(tmp_path / "again.json", other, PLACE, media, ARRAYS)
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "r.json").read_bytes()
    with pytest.raises(CacheError, match=r"lacks 1 of 8 media, new for one: .*verify --repair"):
        write_receipt(tmp_path / "r.json", cache, PLACE, {**KEYS, "new": "new"}, ARRAYS)


def test_the_store_is_listed_by_array_with_its_readers(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "results/mine/cache/vit/view0/train/3.json"
    cache = open_folder(store / PLACE, {})
    write_receipt(path, cache, PLACE, KEYS, ["tokens/layer_3"])
    entries = list(listing(store, [path]))
    assert [(e.place, e.array, e.media, e.readers) for e in entries] == [
        (PLACE, "cls", 7, []),
        (PLACE, "tokens/layer_1", 7, []),
        (PLACE, "tokens/layer_3", 7, ["mine/train"]),
    ]
    assert places(store) == [PLACE]


@pytest.mark.parametrize("name", ["a.zarr", "b.tar"])
def test_what_is_damaged_is_told_and_taken_out_and_the_rest_stays(store: Path, name: str) -> None:
    path = store / PLACE / name
    values = bytes(tokens_of(MEDIA)[4, 3].half().numpy())
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    for file in files:
        if (at := file.read_bytes().find(values)) >= 0:
            content = bytearray(file.read_bytes())
            content[at] ^= 1
            file.write_bytes(content)
    (line,) = verify(store)
    assert f"{name}: the row of {MEDIA[4]} in tokens/layer_3 is damaged" in line
    assert verify(store, repair=True) == [line]
    assert verify(store) == []
    cache = open_folder(store / PLACE, {})
    assert set(cache.media) == set(MEDIA)  # the other shard has that row too
    assert cache.rejected.keys() == {"bad.png"}
    assert cache.read(MEDIA, LAYERS, cls_only=False).equal(tokens_of(MEDIA)[:, LAYERS].half())


def test_a_shard_that_cannot_be_opened_is_taken_out(store: Path) -> None:
    (store / PLACE / "b.tar").write_bytes(b"")
    assert held(store / PLACE)[0]["cls"] == set(MEDIA[:5])
    assert len(verify(store, repair=True)) == 1
    assert [path.name for path in shard_files(store / PLACE)] == ["a.zarr"]


def test_rows_that_nobody_reads_are_found_and_the_others_stay(store: Path) -> None:
    read = {PLACE: {"tokens/layer_1": {MEDIA[0], MEDIA[6]}, "cls": {MEDIA[6]}}}
    found = {
        Path(shard.path).name: (keys, arrays) for shard, keys, arrays, _ in unread(store, read)
    }
    assert found == {
        "a.zarr": ([MEDIA[0]], ["tokens/layer_1"]),
        "b.tar": ([MEDIA[6]], ["cls", "tokens/layer_1"]),
    }
    for shard, keys, arrays, size in list(unread(store, read)):
        assert size > 0
        replace_shard(shard, keys, arrays)
    cache = open_folder(store / PLACE, {})
    assert not list(unread(store, read))
    assert set(cache.media) == {MEDIA[0], MEDIA[6]}
    expected = tokens_of(MEDIA)[[0, 6]][:, [1]].half()
    assert cache.read([MEDIA[0], MEDIA[6]], [1], cls_only=False).equal(expected)
    assert cache.rejected.keys() == {"bad.png"}
    for shard, keys, arrays, _ in list(unread(store, {})):
        replace_shard(shard, keys, arrays)
    assert shard_files(store / PLACE) == []


@pytest.mark.parametrize("suffix", ["zarr", "tar"])
def test_a_copy_in_the_other_format_holds_the_same(tmp_path: Path, suffix: str) -> None:
    other = {"zarr": "tar", "tar": "zarr"}[suffix]
    copy_shard(open_shard(write(tmp_path / f"a.{suffix}")), tmp_path / f"b.{other}")
    first, second = (TokenCache([tmp_path / n], {}) for n in (f"a.{suffix}", f"b.{other}"))
    assert first.digest(MEDIA, ARRAYS) == second.digest(MEDIA, ARRAYS)
    assert second.read(MEDIA, LAYERS, False).equal(first.read(MEDIA, LAYERS, False))


def test_what_is_published_is_found_by_what_made_it_and_fetched(
    store: Path, tmp_path: Path
) -> None:
    write(store / "vit-9/view1/c.tar", MEDIA[:1])
    assert publish(store, tmp_path / "site", ["vit-9/view1"]) == 1
    assert publish(store, tmp_path / "site", [PLACE]) == 2  # besides
    assert (tmp_path / "site/vit-9/view1/c.tar").exists()
    assert "vit-9/view1" in (tmp_path / "site/index.json").read_text()
    (tmp_path / "site/index.json").unlink()
    shutil.rmtree(store / "vit-9")
    assert publish(store, tmp_path / "site") == 2
    url = (tmp_path / "site").as_uri()
    expected = {**METADATA, "dtype": "float16"}
    assert published_place(url, expected) == PLACE
    for shard in (tmp_path / "site" / PLACE).glob("*.tar"):  # the library reads them too
        dataset = webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False)
        keys = [sample["media.txt"] for sample in dataset.decode()]
        assert keys == open_shard(shard).metadata["samples"]
    with pytest.raises(CacheError, match=r"no tokens of this backbone: .* view 0, not 3"):
        published_place(url, {**expected, "view": 3})
    mine = tmp_path / "mine"
    assert fetch_rows(url, PLACE, expected, KEYS, ["cls"], mine) == 7
    assert fetch_rows(url, PLACE, expected, KEYS, ["cls"], mine) == 0
    ours, theirs = (open_folder(root / PLACE, {}) for root in (mine, store))
    assert ours.digest(MEDIA, ARRAYS) == theirs.digest(MEDIA, ARRAYS)
    with pytest.raises(CacheError, match=r"has no rows in cls of 1 of 1 media, new for one"):
        fetch_rows(url, PLACE, expected, {"new": "0"}, ["cls"], mine)
    streamed = open_published(url, PLACE, expected, MEDIA[5:])
    assert [Path(str(shard.path)).name for shard in streamed.shards] == ["b.tar"]
    with pytest.raises(CacheError, match="no vit-1/view0, just vit-0/view0"):
        publish(store, tmp_path / "site", ["vit-1/view0"])
    (tmp_path / "site/index.json").write_text("[]")
    with pytest.raises(CacheError, match="is no index of a published store"):
        published_place(url, expected)
