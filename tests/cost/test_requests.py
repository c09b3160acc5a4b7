"""What jobs ask a scheduler for fits what they do, and grows with each attempt."""

from dataclasses import replace
from pathlib import Path

import pytest

from depalm.config.experiment import Config
from depalm.config.parts import Parts
from depalm.config.schema import load_yaml, validated
from depalm.cost import Cost, CostPlan, megabytes, minutes
from depalm.specs import SettingsSpec

ROOT = Path(__file__).parents[2]


def plan_of(name: str, device: str) -> CostPlan:
    settings = validated(SettingsSpec, load_yaml(ROOT / "config" / name), name)
    return CostPlan(Config(settings, Parts([ROOT / "config"])), device)


def costs_of(plan: CostPlan, stage: str) -> list[Cost]:
    return [cost for cost in plan.costs() if cost.stage == stage]


@pytest.mark.parametrize("stage", ["extract", "train", "generate"])
def test_a_small_llm_fits_into_a_small_node(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for cost in costs_of(plan_of("demo.yaml", "cpu"), stage):
        assert 4_000 <= megabytes(cost, stage, 1) <= 8_000


def test_a_large_llm_asks_for_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for cost in costs_of(plan_of("paper.yaml", "gpu"), "train"):
        assert 20_000 <= megabytes(cost, "train", 1) <= 32_000  # 13.5 GB of bfloat16, and more
        assert cost.memory > 13e9
        assert minutes(cost, "train", 1) >= min(1440, 4 * cost.seconds / 60)


def test_a_second_attempt_asks_for_twice_as_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cost = replace(costs_of(plan_of("paper.yaml", "gpu"), "train")[0], work=3600.0, start=0.0)
    for ask in (megabytes, minutes):
        assert ask(cost, "train", 2) == 2 * ask(cost, "train", 1)
    assert minutes(cost, "train", 1) == 240
    assert minutes(replace(cost, work=36000.0), "train", 1) == 1440
    assert minutes(cost, "train", 5) == 1440  # a day at most, from the last checkpoint on


def test_what_is_not_known_asks_for_enough() -> None:
    assert (megabytes(None, "train", 1), minutes(None, "train", 1)) == (32_000, 1440)
    assert (megabytes(None, "extract", 1), minutes(None, "generate", 1)) == (16_000, 480)
