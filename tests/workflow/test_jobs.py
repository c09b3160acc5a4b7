"""What Snakemake ran, again by hand: `depalm COMMAND logs/....json` gives the same bytes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from depalm.cache.store import open_folder
from depalm.files import read_json
from depalm.jobs import JOBS
from tests.support.workflow import ROOT, RUN, SMOKE, build, copy_of, planned, snakemake

MANIFEST = "results/shapes-vqa/manifest"
LOG = "logs/{}/shapes-vqa/100pct/vit-tiny+llama-tiny/qp_l0/seed0"

pytestmark = pytest.mark.dag


def depalm(folder: Path, command: str, job: str) -> None:
    arguments = [sys.executable, "-m", "depalm", command, job]
    outcome = subprocess.run(arguments, cwd=folder, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which Snakemake has scored a run."""
    folder = build(tmp_path_factory.mktemp("done"))
    outcome = snakemake(folder, f"{RUN}/test.scores.json")
    assert outcome.returncode == 0, outcome.stderr
    return folder


def test_each_job_lies_beside_its_log(done: Path) -> None:
    logs = sorted(done.glob("logs/**/*.log"))
    assert len(logs) == 10
    for log in logs:
        kind = JOBS[log.relative_to(done / "logs").parts[0]]
        text = log.with_suffix(".json").read_text()
        assert kind.from_json(text).to_json() == text


@pytest.mark.parametrize(
    ("command", "job", "outputs"),
    [
        ("score", f"{LOG.format('score')}/test.json", [f"{RUN}/test.scores.json"]),
        (
            "manifest",
            "logs/manifest/shapes-vqa/test.json",
            [f"{MANIFEST}/test.parquet", f"{MANIFEST}/test.rejects.parquet"],
        ),
        (
            "subset",
            "logs/subset/shapes-vqa/100pct/seed0.json",
            ["results/shapes-vqa/subsets/100pct/seed0.json"],
        ),
        (
            "receipt",
            "logs/receipt/shapes-vqa/vit-tiny/view0/train/11.json",
            ["results/shapes-vqa/cache/vit-tiny/view0/train/11.json"],
        ),
        (
            "train",
            f"{LOG.format('train')}.json",
            [f"{RUN}/adapter.safetensors", f"{RUN}/train.rejects.parquet"],
        ),
        (
            "generate",
            f"{LOG.format('generate')}/test.json",
            [f"{RUN}/test.texts.jsonl", f"{RUN}/test.generate.rejects.parquet"],
        ),
    ],
)
def test_a_job_run_again_by_hand_gives_the_same_bytes(
    done: Path, tmp_path: Path, command: str, job: str, outputs: list[str]
) -> None:
    folder = tmp_path / "done"
    shutil.copytree(done, folder)
    for name in ("training", "generation"):  # else the job gives out what these hold
        shutil.rmtree(folder / RUN / name)
    for output in outputs:
        shutil.move(folder / output, tmp_path)
    depalm(folder, command, job)
    for output in outputs:
        assert content(folder / output) == content(done / output)


def test_rows_extracted_again_by_hand_are_the_same(done: Path, tmp_path: Path) -> None:
    folder = copy_of(done, tmp_path / "copy")
    (before,) = folder.glob("results/cache/vit-tiny-*/view0")
    keys, arrays = sorted(open_folder(before, {}).media), ["cls", "tokens/layer_11"]
    digest = open_folder(before, {}).digest(keys, arrays)
    shutil.rmtree(before)
    depalm(folder, "extract", "logs/extract/shapes-vqa/vit-tiny/view0/train/cls-11/0-of-1.json")
    assert open_folder(before, {}).digest(keys, arrays) == digest


def content(path: Path) -> dict[str, bytes]:
    """The bytes of a file, or of all files of a folder, but for what Snakemake puts into it."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in files
        if file.name != ".snakemake_timestamp"
    }


def test_how_many_processes_decode_is_no_reason_to_run_again(done: Path, tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("cache: {workers: 2}")
    more = ("--configfile", str(SMOKE), str(tmp_path / "more.yaml"))
    assert planned(done, f"{RUN}/test.scores.json", *more) == {}


def test_what_is_fetched_and_converted_comes_again_by_hand(tmp_path: Path) -> None:
    torch.save({"weight": torch.arange(4.0)}, tmp_path / "weights.pth")
    spec = yaml.safe_load((ROOT / "tests/smoke/backbones/vit-tiny.yaml").read_text())
    del spec["path"]
    spec |= {"source": {"uri": (tmp_path / "weights.pth").as_uri()}, "convert": "pytorch"}
    (tmp_path / "parts/backbones").mkdir(parents=True)
    (tmp_path / "parts/backbones/far.yaml").write_text(yaml.safe_dump(spec))
    settings = yaml.safe_load(SMOKE.read_text())
    settings |= {"parts": [str(tmp_path / "parts"), *settings["parts"]]}
    settings |= {"grid": [{**settings["grid"][0], "backbones": ["far"]}]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    folder = build(tmp_path / "done")
    model = folder / "resources/models/backbones/far"
    target = ("resources/models/backbones/far", "--configfile", str(tmp_path / "config.yaml"))
    outcome = snakemake(folder, *target)
    assert outcome.returncode == 0, outcome.stderr
    before = content(model)
    assert set(before) == {"model.safetensors", "source.json"}
    shutil.rmtree(model)
    shutil.rmtree(folder / "resources/downloads/backbones/far")
    depalm(folder, "fetch", "logs/fetch/backbones/far.json")
    depalm(folder, "convert", "logs/convert/backbones/far.json")
    assert content(model) == before
    fetched = read_json(folder / "logs/fetch/backbones/far.json")
    assert fetched["downloads"] == "resources/downloads/.cache"
