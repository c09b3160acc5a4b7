"""Costs of a configuration: what is counted, what is not known, and what earlier jobs teach."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from depalm.cli import main
from depalm.config import paths
from depalm.config.load import load_files
from depalm.config.plan import manifest
from depalm.cost import CostPlan, as_table, expected, line
from depalm.cost.counts import Rows, rows_of_manifest
from depalm.cost.estimate import Cost
from depalm.cost.rates import Measured, Rates
from depalm.datasets.manifest import SCHEMA
from depalm.files import write_json

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "config" / "demo.yaml"


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CostPlan:
    """The demo's in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return CostPlan(load_files([DEMO], [ROOT], runs_here=False), "cpu")


def of(plan: CostPlan, stage: str) -> list[Cost]:
    return [cost for cost in plan.costs() if cost.stage == stage]


def write_manifest(path: str, rows: list[dict[str, Any]]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)


def row(media: str, prompt: str = "Is it red?", *references: str) -> dict[str, Any]:
    return {"id": "", "media": media, "prompt": prompt, "references": list(references or ["yes"])}


def test_a_manifest_is_counted(tmp_path: Path) -> None:
    path = str(tmp_path / "m.parquet")
    write_manifest(path, [row("a", "12345678"), row("a", "1234", "ünï♞", "12345678"), row("b", "")])
    assert rows_of_manifest(Path(path)) == Rows(3, 2, prompt=1.0, answer=4.5 / 4)


def test_a_part_has_fewer_media() -> None:
    rows = Rows(samples=4000, media=1000, prompt=8, answer=2)
    assert rows.part(1.0) == rows
    half = rows.part(0.5)  # a medium with four samples keeps one but for one case of 16
    assert (half.samples, half.media) == (2000, round(1000 * 15 / 16))
    assert rows.part(1e-6) == Rows(1, 1, 8, 2)


def test_the_demo_is_known_before_its_data_are_there(plan: CostPlan) -> None:
    assert plan.unknown() == []
    assert sum(cost.jobs for cost in of(plan, "extract")) == 4
    assert len(of(plan, "train")) == len(of(plan, "generate")) == 5
    blind, *_, limber = of(plan, "train")
    assert blind.operations != limber.operations
    # 300 steps of 16 questions through 30 layers of width 576, there and back
    text, weights = 1 + 8 + 3 + 2 + 8, 12 * 30 * 576**2
    assert blind.operations == pytest.approx(300 * 16 * text * 2 * 2 * weights, rel=0.15)


def test_what_is_not_known_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = (ROOT / "config/datasets/easy-vqa.yaml").read_text()
    without = re.sub(r"size:\n(  .*\n)+", "", dataset)
    assert without != dataset
    Path("config/datasets").mkdir(parents=True)
    Path("config/datasets/own.yaml").write_text(without)
    text = DEMO.read_text().replace("easy-vqa", "own")
    Path("own.yaml").write_text(text)
    plan = CostPlan(load_files([Path("own.yaml")], [Path()], runs_here=False), "cpu")
    assert list(plan.costs()) == []
    lacking = [manifest("own", split) for split in ("test", "train")]
    assert line(plan) == f"the cost is not known before there is {', '.join(lacking)}"
    assert plan.unknown() == lacking
    assert all(f"Not counted: what {path} will list" in as_table(plan) for path in lacking)
    for path in lacking:
        write_manifest(path, [row(str(i)) for i in range(10)])
    assert len(of(plan, "train")) == 5
    assert plan.unknown() == []


def test_work_that_is_done_is_not_left(plan: CostPlan) -> None:
    assert "hours are left to do" in line(plan)
    for run in plan.config.runs:
        of_run = plan.config.plan(run)
        files = [*of_run.adapter_files, of_run.scores]
        files += [receipt for _, receipt in receipts(plan)]
        for file in files:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).touch()
    assert line(plan) == ""


def receipts(plan: CostPlan) -> list[tuple[str, str]]:
    found = []
    for run in plan.config.runs:
        of_run = plan.config.plan(run)
        for features in (of_run.training, of_run.testing("test")):
            found += [(run.method, place) for place in features.places]
    return found


def test_jobs_of_the_same_kind_teach_the_speed(plan: CostPlan) -> None:
    """A run of 100 s in a job of 104, and one that was resumed, whose last start was short."""
    first, other = (run for run in plan.config.runs if run.method == "qp_l0")
    before = plan.training(plan.config.plan(first))
    assert before is not None
    for run, started in ((first, 104.0), (other, 3.0)):
        told = {"train_seconds": 100.0, "expected": {"operations": before.operations}}
        Path(run.path).mkdir(parents=True)
        write_json(Path(run.path, "adapter.json"), {"training": {**told, "device": "x86 CPU, 1"}})
        file = Path(paths.BENCHMARK_TRAIN.format(**asdict(run)))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"s\th:m:s\tmax_rss\n{started}\t0:01:40\t900.5\n")
    after = CostPlan(plan.config, "cpu").training(plan.config.plan(first))
    assert after is not None
    assert (after.work, after.start) == (pytest.approx(100.0), 4.0)
    assert expected(after) == {"seconds": 100.0, "operations": round(after.operations)}
    assert expected(None) == {}
    on_gpu = CostPlan(plan.config, "gpu").training(plan.config.plan(first))
    assert on_gpu is not None
    assert on_gpu.seconds < 50  # nothing has been measured there


def test_the_most_similar_jobs_count() -> None:
    jobs = [
        Measured(("train", "llm", "clip", "qp"), 100.0, 10.0, start=3.0),
        Measured(("train", "llm", "clip", "blind"), 100.0, 1.0, start=5.0),
        Measured(("train", "other", "clip", "qp"), 100.0, 1000.0),
    ]
    rates = Rates.of("cpu", jobs)
    assert rates.start == 4.0
    assert rates.seconds(("train", "llm", "clip", "qp"), 50.0, 9.0) == 5
    assert rates.seconds(("train", "llm", "clip", "new"), 110.0, 9.0) == 2  # 10 and 100 a second
    assert rates.seconds(("generate", "llm"), 110.0, 9.0) == 9


def test_cost_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the paper's comparison, without any of its data, and on either device."""
    monkeypatch.chdir(tmp_path)
    hours = {}
    for device in ("cpu", "gpu"):
        main(["plan", "--cost", "--on", device, "--configfile", str(ROOT / "config/paper.yaml")])
        shown = capsys.readouterr().out
        last = next(text for text in shown.splitlines() if text.startswith("in all"))
        hours[device] = float(last.split()[4].replace(",", ""))
        assert f"{device.upper()} hours" in shown
    assert hours["gpu"] < hours["cpu"] / 50


def test_thousands_of_hours_are_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_files([ROOT / "config/paper.yaml"], [ROOT], runs_here=False)
    told = line(CostPlan(config, "gpu"))
    assert re.search(r"^about \d,\d{3} GPU hours are left to do \(extraction .*, training ", told)
