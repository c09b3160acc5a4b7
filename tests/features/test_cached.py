"""Views: training reads the augmented ones in turn, evaluation the clean one."""

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from depalm.adapters.errors import AdapterError
from depalm.adapters.layout import Layout, layout
from depalm.cache.errors import CacheError
from depalm.cache.formats import arrays_of
from depalm.cache.store import open_folder, write_receipt
from depalm.cache.writer import write_shard
from depalm.config.plan import training_views
from depalm.datasets.manifest import Sample
from depalm.errors import DamagedFile
from depalm.features.base import NoFeatures, partition, read, read_each
from depalm.features.source import Source, open_views
from depalm.identity import token_identity
from depalm.rejects import Reject
from depalm.specs import features as specs
from depalm.specs.features import Cached, Online
from depalm.specs.llm import LLMShape
from tests.support.runs import CPU
from tests.support.tiny import method_spec, new_adapter
from tests.support.vit import SPEC, VIT

MEDIA = ["a", "b", "c", "d"]
KEYS = {name: name for name in MEDIA}
METHOD = {"source": {"count": 1}, "tokens": "cls", "inject": {"at": "l0"}}
LLM_SHAPE = {"layers": 4, "width": 16}


def write_view(folder: Path, view: int, rejected: tuple[str, ...] = ()) -> str:
    """Two shards of the store whose tokens all are `view`; the path of their receipt."""
    place = f"vit-0/view{view}"
    identity, arrays = token_identity(VIT, view), arrays_of("cls-11")
    shape = SPEC["shape"]
    for i, media in enumerate((MEDIA[:2], MEDIA[2:])):
        kept = [name for name in media if name not in rejected]
        path = folder / "store" / place / f"{i}.zarr"
        with write_shard(path, identity, shape, arrays, "float16") as shard:
            tokens = torch.full((len(kept), *(shape[k] for k in shape)), view)
            shard.add(kept, shard.pack(tokens.unbind(1)))
            shard.rejected |= dict.fromkeys(rejected, ("empty file", None))
    receipt = folder / f"view{view}.json"
    cache = open_folder(folder / "store" / place, identity)
    write_receipt(receipt, cache, place, KEYS, arrays)
    return str(receipt)


def planned(folder: Path, *views: int, **options: tuple[str, ...]) -> Cached:
    rejected = options.get("rejected", ())
    receipts = [write_view(folder, view, rejected[:view][-1:]) for view in views]
    return Cached(receipts=receipts, views=list(views), store=str(folder / "store"))


def fitted(method: dict[str, Any]) -> Layout:
    return layout(method_spec(method), VIT.shape, LLMShape.model_validate(LLM_SHAPE))


def test_training_reads_the_augmented_views_or_the_only_one() -> None:
    assert [training_views(count) for count in (1, 2, 4)] == [[0], [1], [1, 2, 3]]


def test_epochs_read_the_views_in_turn(tmp_path: Path) -> None:
    cached = planned(tmp_path, 1, 2, 3)
    views = open_views(fitted(METHOD), cached, KEYS, VIT)
    seen = [read(views, ["a", "d"], epoch).unique().tolist() for epoch in range(5)]
    assert seen == [[1], [2], [3], [1], [2]]
    for order, message in (([2, 1, 3], "view: 1, but this .* 2"), ([0, 2, 3], r"transform\.crop")):
        wrong = cached.model_copy(update={"views": order})
        with pytest.raises(CacheError, match=message):
            open_views(fitted(METHOD), wrong, KEYS, VIT)


def test_what_one_view_lacks_is_left_out_of_all(tmp_path: Path) -> None:
    cached = planned(tmp_path, 1, 2, rejected=("b", "c"))
    views = open_views(fitted(METHOD), cached, KEYS, VIT)
    samples = [Sample(name, name, "", ["text"], name) for name in MEDIA]
    kept, rejects = partition(samples, views.rejected)
    assert [sample.media for sample in kept] == ["a", "d"]
    assert rejects == [Reject("b", "b", "empty file"), Reject("c", "c", "empty file")]


def test_a_receipt_of_other_layers_is_refused(tmp_path: Path) -> None:
    method = {**METHOD, "tokens": "all", "source": {"count": 2}, "merge": "mean"}
    with pytest.raises(CacheError, match=r"view1\.json tells of .*11.*, not of .*layer_10"):
        open_views(fitted(method), planned(tmp_path, 1), KEYS, VIT)


def test_rows_that_were_removed_are_named_before_anything_is_trained(tmp_path: Path) -> None:
    cached = planned(tmp_path, 1)
    shutil.rmtree(tmp_path / "store/vit-0/view1/1.zarr")
    message = r"lacks 2 of the 4 media that .*view1\.json tells of, c for one.*verify --repair"
    with pytest.raises(CacheError, match=message):
        open_views(fitted(METHOD), cached, KEYS, VIT)
    Path(cached.receipts[0]).write_text("{")
    with pytest.raises(DamagedFile, match=r"view1\.json is damaged"):
        open_views(fitted(METHOD), cached, KEYS, VIT)


def test_features_are_known_by_the_rows_that_are_read(tmp_path: Path) -> None:
    cached = planned(tmp_path, 1)

    def identity(*media: str) -> list[str]:
        keys = {name: KEYS[name] for name in media}
        return open_views(fitted(METHOD), cached, keys, VIT).identity

    assert identity("a", "b") == identity("b", "a") != identity("a", "c")


def test_what_the_plan_says_is_opened(tmp_path: Path) -> None:
    reading = new_adapter(METHOD, SPEC["shape"], LLM_SHAPE)
    blind = {"inject": {"at": "none"}, "prompt_tokens": 1}
    cached, none = planned(tmp_path, 1), specs.NoFeatures()
    samples = [Sample("1", "a", "", ["text"], "a")]
    source = Source(VIT, None, cached, fitted(METHOD), samples)
    with source.open(reading, None, CPU) as features:
        assert read(features, ["a"]) is not None
    unread = Source(VIT, None, none, fitted(blind), samples)
    with unread.open(new_adapter(blind, SPEC["shape"], LLM_SHAPE), None, CPU) as features:
        assert isinstance(features, NoFeatures)
        assert read(features, ["a"]) is None
        assert (features.rejected, unread.identity) == ({}, None)
    for planned_as, method, message in (
        (none, METHOD, "the method reads tokens, but its features are 'none'"),
        (cached, blind, "the method reads no tokens, but its features are 'cached'"),
        (Online(media="."), METHOD, "need the directory of the backbone's weights"),
    ):
        with pytest.raises(AdapterError, match=message):
            Source(VIT, None, planned_as, fitted(method), samples)


def test_the_next_item_is_read_while_one_is_used_and_no_more() -> None:
    begun: list[int] = []
    two_begun = threading.Event()

    def read(item: int) -> int:
        assert threading.current_thread() is not threading.main_thread()
        begun.append(item)
        if item == 1:
            two_begun.set()
        return 10 * item

    pairs = read_each(range(5), read)
    assert next(pairs) == (0, 0)
    assert two_begun.wait(10)
    time.sleep(0.05)
    assert begun == [0, 1]
    assert list(pairs) == [(1, 10), (2, 20), (3, 30), (4, 40)]
    assert list(read_each([], read)) == []


def test_an_error_of_reading_is_raised_in_its_turn_and_no_thread_stays() -> None:
    threads = threading.active_count()

    def read(item: int) -> int:
        return 10 // item

    pairs = read_each([5, 2, 0, 1], read)
    assert [next(pairs), next(pairs)] == [(5, 2), (2, 5)]
    with pytest.raises(ZeroDivisionError):
        next(pairs)
    left = read_each([5, 2], read)
    next(left)
    left.close()
    assert threading.active_count() == threads
