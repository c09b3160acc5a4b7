"""Files that no rule makes are told before the DAG is built, with the nearest one that is made."""

from pathlib import Path

import pytest

from depalm.config.experiment import Config
from depalm.config.load import load_files
from depalm.config.schema import ConfigError
from depalm.config.targets import check_targets, targets_of

ROOT = Path(__file__).parents[2]
RUN = "results/easy-vqa/runs/100pct/dinov2-S+smollm2-135m"


@pytest.fixture(scope="module")
def config() -> Config:
    return load_files([ROOT / "config" / "demo.yaml"], [ROOT])


def nothing(name: str) -> bool:  # noqa: ARG001
    return False


@pytest.mark.parametrize(
    ("target", "nearest"),
    [
        (f"{RUN}/blind/seed0/tset.scores.json", f"{RUN}/blind/seed0/test.scores.json"),
        # of a run outside of the grid too
        (f"{RUN}/c_attn/seed7/test.score.json", f"{RUN}/c_attn/seed7/test.scores.json"),
        (f"{RUN}/blind/seed0x/adapter.safetensors", f"{RUN}/blind/seed0/adapter.safetensors"),
        ("results/easy-vqa/manifest/trian.parquet", "results/easy-vqa/manifest/train.parquet"),
        ("results/tab1es/demo.html", "results/tables/demo.html"),
    ],
)
def test_the_nearest_path_is_suggested(config: Config, target: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_targets(config, [target], nothing)
    assert str(error.value) == f"no rule makes {target}; did you mean {nearest}?"


def test_a_run_that_cannot_be_is_told_by_what_is_wrong_with_it(config: Config) -> None:
    with pytest.raises(ConfigError, match=r"unknown method 'blnd'; did you mean 'blind'"):
        check_targets(config, [f"{RUN}/blnd/seed0/test.scores.json"], lambda _: True)
    check_targets(config, [f"{RUN}/limber_1/seed5/test.scores.json"], lambda _: True)


def test_targets_are_told_from_the_values_of_options() -> None:
    line = ["--configfile", "a.yaml", "--report", "results/report.html", "--", "results/a", "b"]
    assert targets_of(line) == ["results/a"]
    assert targets_of(["-n", "results/a", "results/b", "-c2"]) == ["results/a", "results/b"]
    assert targets_of(["all"]) == []
