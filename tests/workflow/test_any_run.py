"""Any run by its path: of every shipped method, backbone, LLM and dataset, in the grid or not."""

from itertools import cycle
from pathlib import Path

import pytest

from depalm.config.experiment import Config
from depalm.config.load import load_files
from depalm.config.run import Run
from depalm.config.schema import ConfigError
from tests.support.workflow import ROOT, planned

pytestmark = pytest.mark.dag


def names(kind: str) -> list[str]:
    return sorted(path.stem for path in (ROOT / "config" / f"{kind}s").glob("*.yaml"))


def fits(config: Config, run: Run) -> bool:
    """Some methods read more layers than the smallest models have."""
    try:
        config.plan(run)
    except ConfigError as error:
        if "does not fit" not in str(error):
            raise
        return False
    return True


def some_runs(config: Config) -> list[Run]:
    """Two runs of every backbone, with the other parts in turn."""
    by_modality: dict[str, list[str]] = {}
    for name in names("dataset"):
        by_modality.setdefault(config.parts.dataset(name).modality, []).append(name)
    datasets = {modality: cycle(found) for modality, found in by_modality.items()}
    methods = cycle(name for name in names("method") if name != "blind")
    llms = cycle(names("llm"))
    found = [Run("easy-vqa", "33pct", "disabled", "opt-125m", "blind", 5)]
    for backbone in 2 * [name for name in names("backbone") if name != "disabled"]:
        dataset, llm = next(datasets[config.parts.backbone(backbone).modality]), next(llms)
        of_methods = (Run(dataset, "33pct", backbone, llm, method, 5) for method in methods)
        found.append(next(run for run in of_methods if fits(config, run)))
    return found


def test_a_run_of_every_part_is_planned_by_its_path(tmp_path: Path) -> None:
    """None of them is in the grid of the demo, and the store is empty."""
    for folder in ("data/audiocaps", "data/msrvtt", "data/generic", "resources/local/mavil"):
        (tmp_path / folder).mkdir(parents=True)
    demo = ROOT / "config" / "demo.yaml"
    config = load_files([demo], [ROOT])
    runs = some_runs(config)
    assert {run.dataset for run in runs} == set(names("dataset"))
    assert {run.method for run in runs} == set(names("method"))
    assert {run.llm for run in runs} == set(names("llm"))
    targets = [config.plan(run).scores for run in runs]
    jobs = planned(tmp_path, "--quiet", "rules", "--configfile", str(demo), "--", *targets)
    for rule in ("train", "generate", "score"):
        assert jobs[rule] == len(runs)
    assert jobs["extract"] > len(runs)  # a training and a test split each
