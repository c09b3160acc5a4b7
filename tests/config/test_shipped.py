"""The shipped configurations run one after another in one folder, and undo nothing. What
the shipped parts download is pinned.
"""

import re
from itertools import combinations
from pathlib import Path

import pytest

from depalm.config.experiment import Config
from depalm.config.load import load_files
from depalm.config.schema import load_yaml
from depalm.config.store_plan import StorePlan

ROOT = Path(__file__).parents[2]
NAMES = ("config", "demo", "methods")


def load(name: str) -> Config:
    return load_files([ROOT / "config" / f"{name}.yaml"], [ROOT])


@pytest.mark.parametrize(("first", "second"), combinations(NAMES, 2))
def test_runs_that_two_configurations_share_are_the_same(first: str, second: str) -> None:
    one, other = load(first), load(second)
    shared = set(one.runs) & set(other.runs)
    assert shared
    for run in shared:
        plans = [config.plan(run) for config in (one, other)]
        assert plans[0].training_settings() == plans[1].training_settings()
        split = plans[0].dataset.test_split
        assert plans[0].testing_settings(split) == plans[1].testing_settings(split)
        for part in ("train", split):
            assert one.manifest_settings(run.dataset, part) == other.manifest_settings(
                run.dataset, part
            )
    assert one.settings.generate == other.settings.generate
    assert one.settings.device == other.settings.device


@pytest.mark.parametrize("name", NAMES)
def test_each_wants_the_rows_of_one_encoder(name: str) -> None:
    """The same dtype and view as the others."""
    caches = StorePlan(load(name)).caches()
    assert {(c["dataset"], c["backbone"], c["view"]) for c in caches} == {
        ("easy-vqa", "dinov2-S", 0)
    }
    assert load(name).settings.cache.dtype == "float16"


# of these no commit was known when their files were written: the first download records it
UNPINNED = {
    *("audiomae", "convnext-L-clip", "pe-core-B"),
    *("dinov2-B", "dinov2-L", "dinov2-G", "dinov2-reg-S", "dinov2-reg-B"),
    *("siglip-B", "siglip-L", "siglip-so400m", "siglip2-L", "siglip2-so400m"),
    *("vit-B-in1k", "vit-B-in21k", "vit-B-in21k_ft1k", "vit-L-in21k"),
}


def test_models_on_the_hub_are_pinned_to_a_commit() -> None:
    uris = {
        file.stem: str(load_yaml(file).get("source", {}).get("uri", ""))
        for kind in ("llms", "backbones")
        for file in (ROOT / "config" / kind).glob("*.yaml")
    }
    on_the_hub = {name: uri for name, uri in uris.items() if uri.startswith("hf://")}
    pinned = {name for name, uri in on_the_hub.items() if re.search(r"@[0-9a-f]{40}(/|$)", uri)}
    assert len(pinned) > 50
    assert on_the_hub.keys() - pinned == UNPINNED
