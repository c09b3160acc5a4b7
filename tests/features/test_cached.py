"""Views: training reads the augmented ones in turn, evaluation the clean one."""

import threading
import time
from pathlib import Path

import pytest
import torch

from depalm.adapters.errors import AdapterError
from depalm.cache.errors import CacheError
from depalm.cache.writer import write_shard
from depalm.config.plan import training_views
from depalm.datasets.manifest import Sample
from depalm.features.base import NoFeatures, partition, read_each
from depalm.features.source import Source, open_cache, open_views
from depalm.identity import token_identity
from depalm.rejects import Reject
from depalm.specs import features as specs
from depalm.specs.features import Cached, Online
from tests.support.runs import CPU
from tests.support.tiny import new_adapter
from tests.support.vit import SPEC, VIT

MEDIA = ["a", "b", "c", "d"]
METHOD = {"source": {"count": 1}, "tokens": "cls", "inject": {"at": "l0"}}
LLM_SHAPE = {"layers": 4, "width": 16}


def write_view(folder: Path, view: int, rejected: tuple[str, ...] = ()) -> list[Path]:
    """Two shards whose tokens all are `view`."""
    paths = [folder / f"view{view}/shard-{i}.zarr" for i in range(2)]
    for path, media in zip(paths, (MEDIA[:2], MEDIA[2:]), strict=True):
        kept = [name for name in media if name not in rejected]
        with write_shard(path, token_identity(VIT, view), SPEC["shape"], [11], "float16") as shard:
            tokens = torch.full((len(kept), *(SPEC["shape"][k] for k in SPEC["shape"])), view)
            shard.add(kept, shard.pack(tokens))
            shard.rejected |= dict.fromkeys(rejected, "empty file")
    return paths


def test_training_reads_the_augmented_views_or_the_only_one() -> None:
    assert [training_views(count) for count in (1, 2, 4)] == [[0], [1], [1, 2, 3]]


def test_epochs_read_the_views_in_turn(tmp_path: Path) -> None:
    shards = [path for view in (1, 2, 3) for path in write_view(tmp_path, view)]
    adapter = new_adapter(METHOD, SPEC["shape"], LLM_SHAPE)
    views = open_views(adapter, shards, [1, 2, 3], VIT)
    read = [views.read(["a", "d"], epoch).unique().tolist() for epoch in range(5)]
    assert read == [[1], [2], [3], [1], [2]]
    with pytest.raises(CacheError, match="view: 1, but this run asks for 2"):
        open_views(adapter, shards, [2, 1, 3], VIT)
    with pytest.raises(CacheError, match=r"transform\.crop"):
        open_cache(shards[:2], VIT)


def test_what_one_view_lacks_is_left_out_of_all(tmp_path: Path) -> None:
    shards = write_view(tmp_path, 1, rejected=("b",)) + write_view(tmp_path, 2, rejected=("c",))
    views = open_views(new_adapter(METHOD, SPEC["shape"], LLM_SHAPE), shards, [1, 2], VIT)
    samples = [Sample(name, name, "", ["text"]) for name in MEDIA]
    kept, rejects = partition(samples, views.rejected)
    assert [sample.media for sample in kept] == ["a", "d"]
    assert rejects == [Reject("b", "b", "empty file"), Reject("c", "c", "empty file")]


def test_a_cache_without_the_layers_of_the_adapter_is_refused(tmp_path: Path) -> None:
    method = {**METHOD, "tokens": "all", "source": {"count": 2}, "merge": "mean"}
    adapter = new_adapter(method, SPEC["shape"], LLM_SHAPE)
    with pytest.raises(CacheError, match=r"holds all tokens of layers \[11\], not of \[10\]"):
        open_views(adapter, write_view(tmp_path, 1), [1], VIT)


def test_what_the_plan_says_is_opened(tmp_path: Path) -> None:
    reading = new_adapter(METHOD, SPEC["shape"], LLM_SHAPE)
    blind = new_adapter({"inject": {"at": "none"}, "prompt_tokens": 1}, SPEC["shape"], LLM_SHAPE)
    cached = Cached(shards=[str(path) for path in write_view(tmp_path, 1)], views=[1])
    none = specs.NoFeatures()
    with Source(VIT, None, cached).open(reading, None, [], CPU) as features:
        assert features.read(["a"]) is not None
        assert features.read_ahead
    with Source(VIT, None, none).open(blind, None, [], CPU) as features:
        assert isinstance(features, NoFeatures)
        assert features.read(["a"]) is None
        assert (features.rejected, features.identity) == ({}, None)
    for planned, adapter, message in (
        (none, reading, "the method reads tokens, but its features are 'none'"),
        (cached, blind, "the method reads no tokens, but its features are 'cached'"),
        (Online(media="."), reading, "need the directory of the backbone's weights"),
    ):
        with pytest.raises(AdapterError, match=message):
            Source(VIT, None, planned).open(adapter, None, [], CPU)


def test_the_next_item_is_read_while_one_is_used_and_no_more() -> None:
    begun: list[int] = []
    two_begun = threading.Event()

    def read(item: int) -> int:
        assert threading.current_thread() is not threading.main_thread()
        begun.append(item)
        if item == 1:
            two_begun.set()
        return 10 * item

    pairs = read_each(range(5), read, ahead=True)
    assert next(pairs) == (0, 0)
    assert two_begun.wait(10)
    time.sleep(0.05)
    assert begun == [0, 1]
    assert list(pairs) == [(1, 10), (2, 20), (3, 30), (4, 40)]
    assert list(read_each([], read, ahead=True)) == []


def test_an_error_of_reading_is_raised_in_its_turn_and_no_thread_stays() -> None:
    threads = threading.active_count()

    def read(item: int) -> int:
        return 10 // item

    pairs = read_each([5, 2, 0, 1], read, ahead=True)
    assert [next(pairs), next(pairs)] == [(5, 2), (2, 5)]
    with pytest.raises(ZeroDivisionError):
        next(pairs)
    left = read_each([5, 2], read, ahead=True)
    next(left)
    left.close()
    assert threading.active_count() == threads


def test_what_depends_on_the_step_before_is_read_in_turn_by_the_same_thread() -> None:
    begun: list[int] = []

    def read(item: int) -> bool:
        begun.append(item)
        return threading.current_thread() is threading.main_thread()

    pairs = read_each(range(3), read, ahead=False)
    assert next(pairs) == (0, True)
    assert begun == [0]
