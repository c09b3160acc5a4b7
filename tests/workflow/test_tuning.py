"""`tune` in a configuration: a cell is tuned once, and its seeds train with what was chosen."""

import json
from pathlib import Path

import pytest
import yaml

from depalm.config.load import load_files
from depalm.cost import CostPlan, as_table
from depalm.files import read_json
from tests.support.workflow import ROOT, build, configuration, planned, run

pytestmark = pytest.mark.dag
CELL = "results/shapes-vqa/tuned/100pct/vit-tiny+llama-tiny/qp_l0/tuned.json"


def test_a_cell_is_tuned_once_for_all_its_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path)
    arguments = configuration(tmp_path, tune={"lr": [1.0e-3, 1.0e-2], "part": 0.3})
    settings = yaml.safe_load((tmp_path / "config.yaml").read_text())
    settings["grid"][0] |= {"fractions": ["100pct"], "seeds": [0, 1]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    jobs = planned(tmp_path, *arguments)
    assert (jobs["tune"], jobs["train"]) == (1, 2)
    run(tmp_path, *arguments)
    tuned = read_json(tmp_path / CELL)
    assert tuned["expected"]["operations"] > 0
    assert tuned["spent"]["steps"] == 24
    for seed in (0, 1):
        folder = tmp_path / f"results/shapes-vqa/runs/100pct/vit-tiny+llama-tiny/qp_l0/seed{seed}"
        steps = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
        assert max(step["lr"] for step in steps) == pytest.approx(tuned["chosen"]["lr"])
        assert read_json(folder / "test.scores.json")["tuned"]["chosen"] == tuned["chosen"]
    (table,) = (tmp_path / "results/tables").glob("*.md")
    note = (
        "Tuned, each method on the same budget of 24 steps: learning rate of 0.001, 0.01, by the "
        "loss on"
    )
    assert note in table.read_text()
    assert f"100%, vit-tiny, llama-tiny): learning rate {tuned['chosen']['lr']:g}." in (
        table.read_text()
    )
    assert planned(tmp_path, *arguments) == {}
    monkeypatch.chdir(tmp_path)
    plan = CostPlan(load_files([Path("config.yaml")], [ROOT]), "cpu")
    told = {line.split()[0]: line.split() for line in as_table(plan).splitlines() if line}
    assert told["tuning"][1:3] == ["1", "0"]  # jobs, and of them left
    # other candidates: the cell is tuned anew, and what follows from it
    more = configuration(tmp_path, "more", tune={"lr": [1.0e-3, 3.0e-3], "part": 0.3})
    again = yaml.safe_load((tmp_path / "more.yaml").read_text()) | {"grid": settings["grid"]}
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(again))
    jobs = planned(tmp_path, *more)
    assert (jobs["tune"], jobs["train"], jobs["generate"]) == (1, 2, 2)
    assert "extract" not in jobs
