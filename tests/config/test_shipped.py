"""The shipped configurations run one after another in one folder, and undo nothing."""

from itertools import combinations
from pathlib import Path

import pytest

from depalm.config.experiment import Config
from depalm.config.load import load_files
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
