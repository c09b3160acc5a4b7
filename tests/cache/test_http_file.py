"""Shards read from a web server: the same as from the disk, in few requests, and clear failures."""

import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from depalm.cache.errors import CacheError
from depalm.cache.formats import arrays_of
from depalm.cache.reader import TokenCache
from depalm.cache.shard import NEAR
from depalm.cache.writer import write_shard
from depalm.features.cached import CachedViews
from depalm.generation.generate import generate
from depalm.sources.http import CONNECTIONS, DownloadError
from depalm.specs.settings import GenerateSpec
from depalm.training.batches import encode
from depalm.training.loop import train
from depalm.training.schedule import Schedule
from tests.support.features import views_of
from tests.support.shards import ARRAYS, LAYERS, MEDIA, METADATA, tokens_of, write
from tests.support.tiny import BACKBONE, tiny_llm
from tests.support.training import SETTINGS, build, equal, samples, weights
from tests.support.web import RangeServer, range_server, serve

TO_OPEN = 3  # requests: its length, the footer, the index


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    monkeypatch.setattr("depalm.sources.http.RETRY_SECONDS", (0.0, 0.0))  # three attempts
    with range_server(tmp_path) as server:
        yield server


def opened(site: RangeServer) -> TokenCache:
    write(site.folder / "shard.tar")
    return TokenCache([f"{site.url}/shard.tar"], {})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_streamed_cache_is_that_on_the_disk(site: RangeServer, dtype: str) -> None:
    names = ["shard-0-of-2.tar", "shard-1-of-2.tar"]
    for name, media in zip(names, (MEDIA[:4], MEDIA[4:]), strict=True):
        write(site.folder / name, media, dtype=dtype, rejected=(f"bad-{name}",))
    here = TokenCache([site.folder / name for name in names], {})
    there = TokenCache([f"{site.url}/{name}" for name in names], {"dtype": dtype})
    assert len(site.ranges) == 2 * TO_OPEN
    assert there.metadata == here.metadata
    assert there.digest(MEDIA, ARRAYS) == here.digest(MEDIA, ARRAYS)
    assert there.rejected == here.rejected
    chosen = [MEDIA[i] for i in (6, 0, 3, 0, 5)]
    for layers, cls_only in (([3, 1], False), ([0, 2, 3], True), ([3], False)):
        site.ranges.clear()
        read = there.read(chosen, layers, cls_only)
        assert read.equal(here.read(chosen, layers, cls_only))
        assert read.any()
        assert len(site.ranges) == 4  # one for each sample that differs


def test_layers_far_apart_are_asked_for_one_by_one(site: RangeServer) -> None:
    shape = {"layers": 4, "tokens": 4, "width": NEAR // 8}  # a layer's row is as long as NEAR
    tokens = torch.randint(0, 9, (2, *shape.values())).float()
    with write_shard(
        site.folder / "shard.tar", METADATA, shape, arrays_of("cls-0-1-3"), "float16"
    ) as shard:
        shard.add(MEDIA[:2], shard.pack(tokens.unbind(1)))
    cache = TokenCache([f"{site.url}/shard.tar"], {})
    for layers, requests in (([0, 1], 1), ([1, 0, 3], 1), ([3, 0], 2)):
        site.ranges.clear()
        assert cache.read(MEDIA[:1], layers, False).equal(tokens[:1, layers].half())
        assert len(site.ranges) == requests


def test_connections_are_several_and_kept(site: RangeServer) -> None:
    media = [f"{i}.png" for i in range(40)]
    with write_shard(
        site.folder / "shard.tar", METADATA, BACKBONE, arrays_of("cls-0"), "float16"
    ) as shard:
        shard.add(media, shard.pack(torch.zeros(40, *BACKBONE.values()).unbind(1)))
    cache = TokenCache([f"{site.url}/shard.tar"], {})
    site.delay = 0.02
    for _ in range(3):
        cache.read(media, [0], cls_only=False)
    assert len(site.ranges) == TO_OPEN + 3 * 40
    assert 2 <= site.most_active <= CONNECTIONS
    assert len(site.clients) <= CONNECTIONS


def test_failures_that_pass_are_tried_again(site: RangeServer) -> None:
    site.failures = [503, 429]
    cache = opened(site)
    site.failures = [10, 500]  # a body cut after 10 bytes
    assert cache.read(MEDIA[:1], LAYERS, False).equal(tokens_of(MEDIA)[:1, LAYERS].half())
    assert len(site.ranges) == TO_OPEN + 2 + 1 + 2


@pytest.mark.parametrize(
    ("failures", "message"),
    [
        ([503] * 3, r"503 Service Unavailable; check the network and run again"),
        ([10] * 3, r"cut after 10 of .*check the network and run again"),
        ([404], r"404 Not Found; correct the URL"),
        ([403], r"403 Forbidden; correct the URL, or see whether the publisher wants a login"),
    ],
)
def test_failures_that_stay_are_named_with_the_url(
    site: RangeServer, failures: list[int], message: str
) -> None:
    cache = opened(site)
    site.failures = failures
    with pytest.raises(DownloadError, match=rf"{site.url}/shard\.tar: .*{message}"):
        cache.read(MEDIA[:1], LAYERS, cls_only=False)
    assert not site.failures


def test_no_server_and_no_shard_are_named(site: RangeServer) -> None:
    with pytest.raises(DownloadError, match=r"/absent\.tar: the server answers 404"):
        TokenCache([f"{site.url}/absent.tar"], {})
    with pytest.raises(DownloadError, match=r"http://127\.0\.0\.1:1/shard\.tar: .*check the net"):
        TokenCache(["http://127.0.0.1:1/shard.tar"], {})


def test_a_server_that_gives_only_whole_files_is_refused(site: RangeServer) -> None:
    path = write(site.folder / "shard.tar")
    with (
        serve(site.folder) as url,
        pytest.raises(DownloadError, match=r"does not give parts.*leave out cache\.stream"),
    ):
        TokenCache([f"{url}/{path.name}"], {})


@pytest.mark.parametrize("change", ["version", "length", "cut"])
def test_a_shard_that_changes_meanwhile_is_noticed(site: RangeServer, change: str) -> None:
    cache = opened(site)
    path = site.folder / "shard.tar"
    if change == "version":
        site.etag = '"2"'
    else:
        content = path.read_bytes()
        path.write_bytes(content + bytes(512) if change == "length" else content[:600])
    with pytest.raises(DownloadError, match=r"shard\.tar: the file is empty, or has changed on"):
        cache.read(MEDIA[-1:], LAYERS, cls_only=False)


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (0, "the file is empty"),
        (50, r"is cut, or not a shard.*; have it published anew"),
        (-1, r"is cut, or not a shard.*; have it published anew"),
    ],
)
def test_a_cut_archive_is_found_at_once(site: RangeServer, length: int, message: str) -> None:
    path = write(site.folder / "shard.tar")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises((CacheError, DownloadError), match=rf"{site.url}/shard\.tar:? {message}"):
        TokenCache([f"{site.url}/shard.tar"], {})


def test_a_damaged_index_or_another_cache_is_refused(site: RangeServer) -> None:
    path = write(site.folder / "shard.tar")
    with pytest.raises(CacheError, match=rf"{site.url}.* made with view: 0, but .* 1; have it pub"):
        TokenCache([f"{site.url}/shard.tar"], {"view": 1})
    content = bytearray(path.read_bytes())
    content[content.index(b"__metadata__") - 8] ^= 1  # at the end of the offsets
    path.write_bytes(content)
    with pytest.raises(CacheError, match=r"damaged index; have it published anew"):
        TokenCache([f"{site.url}/shard.tar"], {})


def test_zarr_shards_are_not_streamed(site: RangeServer) -> None:
    with pytest.raises(CacheError, match=r"shard\.zarr: zarr shards are not streamed"):
        TokenCache([f"{site.url}/shard.zarr"], {})


def test_a_file_url_is_read_in_place(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    path = write(tmp_path / "a b/shard.tar")
    assert TokenCache([path.as_uri()], {}).read(MEDIA, LAYERS, False).any()


def test_the_proxy_of_the_environment_is_used(
    site: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(site.folder / "shard.tar")
    monkeypatch.setenv("http_proxy", site.url)
    cache = TokenCache(["http://shards.invalid/shard.tar"], {})
    assert cache.read(MEDIA, LAYERS, False).any()


def runs_from(cache: TokenCache, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The adapter that is trained on a cache, and what it generates from it."""
    llm, adapter = tiny_llm("llama"), build("qp_l0")
    views = views_of(adapter, cache)
    data = encode(llm, samples(), 10)
    run = train(llm, adapter, data, views, SETTINGS, 0, folder, {"of": "this"})
    texts = generate(
        llm, run.adapter, samples(), views, GenerateSpec(beams=2, max_new_tokens=6, batch_size=8)
    )
    return weights(run), texts


@pytest.fixture
def readers() -> Callable[[], set[threading.Thread]]:
    """Tells the threads of pools that came since the test began and are there still."""
    before = set(threading.enumerate())

    def since() -> set[threading.Thread]:
        pools = {thread for thread in threading.enumerate() if "PoolExecutor" in thread.name}
        return pools - before

    return since


@pytest.fixture
def of_samples(site: RangeServer) -> Path:
    """A shard of the training samples' media."""
    path = site.folder / "shard.tar"
    media = sorted({sample.media for sample in samples()})
    torch.manual_seed(0)
    with write_shard(path, METADATA, BACKBONE, arrays_of("cls-0-1"), "float16") as shard:
        shard.add(media, shard.pack(torch.randn(len(media), *BACKBONE.values()).unbind(1)))
    return path


def test_the_same_is_trained_and_generated(
    site: RangeServer, of_samples: Path, readers: Callable[[], set[threading.Thread]]
) -> None:
    here = runs_from(TokenCache([of_samples], {}), site.folder / "here")
    there = runs_from(TokenCache([f"{site.url}/shard.tar"], {}), site.folder / "there")
    assert equal(here[0], there[0])
    assert not equal(here[0], build("qp_l0").state_dict())
    assert here[1] == there[1]
    assert len(site.ranges) > TO_OPEN + Schedule(SETTINGS, 30).total
    assert not readers()


def test_what_fails_meanwhile_ends_the_training(
    site: RangeServer, of_samples: Path, readers: Callable[[], set[threading.Thread]]
) -> None:
    cache = TokenCache([f"{site.url}/shard.tar"], {})
    of_samples.unlink()
    with pytest.raises(DownloadError, match="404"):
        runs_from(cache, site.folder / "run")
    assert not readers()


class Failing(CachedViews):
    """Views of which the eighth batch cannot be read."""

    reads = count(1)

    def load(self, *arguments: Any) -> torch.Tensor:
        if next(self.reads) == 8:
            raise DownloadError("gone")
        return super().load(*arguments)


def test_a_run_whose_reading_fails_goes_on_with_the_bytes_of_an_undisturbed_one(
    site: RangeServer, of_samples: Path
) -> None:
    llm, cache = tiny_llm("llama"), TokenCache([of_samples], {})
    adapter, data, folder = build("qp_l0"), encode(llm, samples(), 10), site.folder / "failed"
    failing = Failing(**vars(views_of(adapter, cache)))
    with pytest.raises(DownloadError, match="gone"):
        train(llm, adapter, data, failing, SETTINGS, 0, folder, {"of": "this"})
    assert len((folder / "train.jsonl").read_text().splitlines()) == 7
    adapter = build("qp_l0")
    views = views_of(adapter, cache)
    resumed = train(llm, adapter, data, views, SETTINGS, 0, folder, {"of": "this"})
    whole, _ = runs_from(cache, site.folder / "whole")
    assert equal(weights(resumed), whole)
