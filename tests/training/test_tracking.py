"""Learning curves in a tracker that the user has."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from depalm.config.load import load_files
from depalm.config.schema import ConfigError
from depalm.training.batches import encode
from depalm.training.loop import train
from depalm.training.tracking import start_tracking
from tests.support.features import RandomFeatures
from tests.support.tiny import tiny_llm
from tests.support.training import SETTINGS, build, samples

ROOT = Path(__file__).parents[2]
RUN = "results/vqa/runs/100pct/vit+llm/qp_l0/seed0"


@pytest.mark.parametrize("library", ["trackio", "wandb"])
def test_a_tracker_gets_the_curve(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []

    class Run:
        def log(self, data: dict[str, float], step: int) -> None:
            rows.append({"step": step, **data})

        def finish(self) -> None:
            rows.append({})

    def init(**values: Any) -> Run:
        told.append(values)
        return Run()

    monkeypatch.setitem(sys.modules, library, SimpleNamespace(init=init))
    tracker = start_tracking(library, RUN, {"train": {"lr": 1.0}})
    assert told[0]["name"] == RUN.replace("/", " ")
    assert told[0]["config"] == {"train": {"lr": 1.0}}
    assert (len(told[0].get("id", "")) == 16) == (library == "wandb")

    llm, adapter = tiny_llm("llama"), build("qp_l0")
    data = (encode(llm, samples(), 10), RandomFeatures(adapter), SETTINGS, 0, tmp_path, {})
    train(llm, adapter, *data, tracker=tracker)
    log = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert rows.pop() == {}
    kept = ("step", "loss", "lr", "grad_norm")
    assert [{key: row[key] for key in kept} for row in rows] == [
        {key: line[key] for key in kept} for line in log
    ]
    assert all(row["tokens_per_second"] > 0 for row in rows[1:])


def test_wandb_itself_keeps_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    tracker = start_tracking("wandb", RUN, {"lr": 1.0})
    tracker.log({"loss": 2.0}, step=1)
    tracker.finish()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_a_library_that_is_not_installed_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = yaml.safe_load((ROOT / "config/demo.yaml").read_text())
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**settings, "tracking": "trackio"}))
    monkeypatch.setattr("depalm.config.checks.find_spec", lambda _: None)
    with pytest.raises(
        ConfigError, match=r"tracking: trackio is not installed: install .*\[trackio\]"
    ):
        load_files([str(tmp_path / "c.yaml")], [ROOT])
