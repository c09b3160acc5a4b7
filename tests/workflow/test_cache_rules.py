"""The rules and commands around the token store: sizes beforehand, extraction side by side, upkeep,
and rows from a URL.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from depalm.cache.reader import open_shard
from depalm.cache.store import open_folder, shard_files
from depalm.files import read_json, sha256_file
from tests.support.web import range_server, serve
from tests.support.workflow import RUN, SMOKE, build, copy_of, planned, snakemake

CACHE = "results/shapes-vqa/cache/vit-tiny/view0"
RECEIPTS = [f"{CACHE}/{split}/11.json" for split in ("train", "test")]
TEXTS = f"{RUN}/test.texts.jsonl"
ARRAYS = ["cls", "tokens/layer_11"]

pytestmark = pytest.mark.dag


def configuration(folder: Path, **cache: Any) -> list[str]:
    """Arguments of a smoke run with one dataset, extracted by two jobs for each split."""
    settings = yaml.safe_load(SMOKE.read_text())
    settings["grid"] = settings["grid"][:1]
    settings["cache"] |= {"format": "webdataset", "shards": 2, **cache}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return ["--configfile", str(folder / "config.yaml")]


def depalm(folder: Path, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "depalm", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, input=typed)


def store(folder: Path) -> Path:
    """The only folder of shards."""
    (found,) = folder.glob("results/cache/*/view0")
    return found


def digest(folder: Path) -> list[str]:
    """What the receipts say of the rows."""
    return [read_json(folder / receipt)["sha256"] for receipt in RECEIPTS]


def forwarded(log: str) -> list[int]:
    """How many files went through the backbone, extraction by extraction."""
    return [int(n) for n in re.findall(r"(\d+) of \d+ files went through the backbone", log)]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return configuration(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def sizes(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which just `cache_size` was asked for, and what that printed."""
    folder = build(tmp_path_factory.mktemp("done"))
    outcome = snakemake(folder, "cache_size", *arguments)
    assert outcome.returncode == 0, outcome.stderr
    return folder, outcome.stdout


@pytest.fixture(scope="module")
def done(arguments: list[str], sizes: tuple[Path, str]) -> tuple[Path, str]:
    """That folder with all rows, and Snakemake's log."""
    outcome = snakemake(sizes[0], "caches", *arguments)
    assert outcome.returncode == 0, outcome.stderr
    return sizes[0], outcome.stderr


@pytest.fixture
def folder(done: tuple[Path, str], tmp_path: Path) -> Path:
    return copy_of(done[0], tmp_path / "copy")


@pytest.fixture(scope="module")
def published(done: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `depalm cache publish` made of its store."""
    target = tmp_path_factory.mktemp("published")
    outcome = depalm(done[0], "cache", "publish", str(target))
    assert outcome.returncode == 0, outcome.stderr
    return target


def test_sizes_are_printed_by_layer_before_anything_runs(
    sizes: tuple[Path, str], done: tuple[Path, str]
) -> None:
    rows = [line.split() for line in sizes[1].splitlines() if line.startswith("shapes-vqa")]
    assert [row[:5] for row in rows] == [
        ["shapes-vqa", "vit-tiny", "0", split, array]
        for split in ("train", "test")
        for array in ARRAYS
    ]
    total = int(sizes[1].splitlines()[-1].removeprefix("total").replace(",", ""))
    assert sum(int(row[-1].replace(",", "")) for row in rows) == total
    assert (
        len(open_folder(store(done[0]), {}).media) == 24
    )  # the photos of test stand in train too, which the sizes do not know


def test_extractions_run_side_by_side_and_stages_are_timed(done: tuple[Path, str]) -> None:
    folder, log = done
    first_end = log.index("Finished jobid")
    assert len(re.findall(r"rule extract:", log[:first_end])) == 2  # of 2 cores
    logs = list(folder.glob("logs/extract/shapes-vqa/vit-tiny/view0/*/cls-11/*.log"))
    assert len(logs) == 4
    assert sum(forwarded(log)) == 24
    for path in logs:
        if "waiting for decoding" in path.read_text():
            stages = ("waiting for decoding", "backbone", "waiting for writing")
            assert all(re.search(rf"{stage} [0-9.]+ s", path.read_text()) for stage in stages)


def test_the_store_is_listed_with_those_who_read_it(done: tuple[Path, str]) -> None:
    outcome = depalm(done[0], "cache", "list")
    assert outcome.returncode == 0, outcome.stderr
    rows = [line.split() for line in outcome.stdout.splitlines()]
    place = store(done[0]).relative_to(done[0] / "results/cache").as_posix()
    assert [row[:3] for row in rows[1:3]] == [[place, name, "24"] for name in ARRAYS]
    assert rows[1][-1] == "-"
    assert rows[2][-2:] == ["shapes-vqa/test,", "shapes-vqa/train"]


def test_a_flipped_byte_is_found_named_and_repaired(arguments: list[str], folder: Path) -> None:
    """Only the row that was damaged is extracted again; what is trained is what it was."""
    assert depalm(folder, "cache", "verify").stdout == "all rows are as they were written\n"
    before, shard = digest(folder), shard_files(store(folder))[0]
    content = bytearray(shard.read_bytes())
    second = content.index(b"NUMPY", content.index(b"NUMPY") + 1)  # the first row of a layer
    content[second + 2000] ^= 1
    shard.write_bytes(content)
    outcome = depalm(folder, "cache", "verify")
    assert outcome.returncode == 1
    assert re.search(rf"{shard.name}: the row of \w+ in .* is damaged", outcome.stdout)
    assert "verify --repair" in outcome.stderr
    outcome = snakemake(folder, f"{RUN}/adapter.safetensors", *arguments)
    assert outcome.returncode != 0
    message = r"the row of train/images/\d+\.png in tokens/layer_11 is damaged; .*--repair"
    assert re.search(rf"{shard.name}: {message}", outcome.stderr)
    outcome = depalm(folder, "cache", "verify", "--repair")
    assert outcome.returncode == 0, outcome.stderr
    outcome = snakemake(folder, "caches", *arguments)
    assert outcome.returncode == 0, outcome.stderr
    assert sum(forwarded(outcome.stderr)) == 1
    assert digest(folder) == before
    assert depalm(folder, "cache", "verify").returncode == 0


def test_a_lost_shard_is_named_and_extracted_again(arguments: list[str], folder: Path) -> None:
    before, shard = digest(folder), shard_files(store(folder))[0]
    lost = len(open_shard(shard).metadata["samples"])
    shard.unlink()
    outcome = snakemake(folder, f"{RUN}/adapter.safetensors", *arguments)
    assert outcome.returncode != 0
    assert f"the token store lacks {lost} of the 24 media" in outcome.stderr
    assert "Run `depalm cache verify --repair`, then Snakemake again" in outcome.stderr
    assert depalm(folder, "cache", "verify", "--repair").returncode == 0
    outcome = snakemake(folder, f"{RUN}/adapter.safetensors", *arguments)
    assert outcome.returncode == 0, outcome.stderr
    assert read_json(folder / RECEIPTS[0])["sha256"] == before[0]


def test_rows_that_no_run_reads_are_pruned_after_a_question(
    arguments: list[str], folder: Path
) -> None:
    before, config = digest(folder), arguments[1]
    prune = ("cache", "prune", "--configfile", config)
    parts = folder / "tests"
    parts.symlink_to(SMOKE.parents[1] / "tests")
    dry = depalm(folder, *prune, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "that nobody reads; " in dry.stdout
    assert "in all" in dry.stdout
    assert "nothing was removed" in depalm(folder, *prune, typed="n\n").stdout
    assert depalm(folder, *prune, typed="y\n").returncode == 0
    cache = open_folder(store(folder), {})
    assert {name for shard in cache.shards for name in shard.arrays} == {"tokens/layer_11"}
    assert depalm(folder, *prune).stdout == "0 bytes in all\n"
    assert depalm(folder, "cache", "verify").returncode == 0
    assert snakemake(folder, f"{RUN}/adapter.safetensors", *arguments).returncode == 0
    assert digest(folder) == before


def test_media_that_stand_in_two_splits_are_told(done: tuple[Path, str]) -> None:
    outcome = depalm(done[0], "overlap", "shapes-vqa", "--show", "1")
    assert outcome.returncode == 0, outcome.stderr
    first, example = outcome.stdout.splitlines()
    assert "test.parquet: 7 of 7 media stand in results/shapes-vqa/manifest/train.parquet" in first
    assert example.strip() == "test/images/0.png is train/images/0.png"
    outcome = depalm(done[0], "overlap", "unknown")
    assert outcome.returncode == 1
    assert "unknown has 0 manifests" in outcome.stderr


def test_rows_come_from_a_url(done: tuple[Path, str], published: Path, tmp_path: Path) -> None:
    folder = copy_of(done[0], tmp_path / "here", "resources")
    with serve(published) as url:
        arguments = configuration(tmp_path, url=url)
        jobs = planned(folder, "caches", *arguments)
        assert {name: jobs[name] for name in ("fetch_rows", "receipt")} == {
            "fetch_rows": 4,
            "receipt": 2,
        }
        outcome = snakemake(folder, "caches", *arguments)
    assert outcome.returncode == 0, outcome.stderr
    assert digest(folder) == digest(done[0])
    assert depalm(folder, "cache", "verify").returncode == 0


@pytest.mark.nightly
def test_a_streamed_run_ends_with_the_bytes_of_one_from_the_disk(
    arguments: list[str], done: tuple[Path, str], published: Path, tmp_path: Path
) -> None:
    folder = copy_of(done[0], tmp_path / "here", "resources")
    with range_server(published) as site:
        streamed = configuration(tmp_path, url=f"{site.url}/", stream=True)
        jobs = planned(folder, TEXTS, *streamed)
        assert not jobs.keys() & {"extract", "fetch_rows"}
        outcome = snakemake(folder, TEXTS, *streamed)
    assert outcome.returncode == 0, outcome.stderr
    assert site.ranges
    assert not (folder / "results/cache").exists()
    assert snakemake(done[0], TEXTS, *arguments).returncode == 0
    for name in (f"{RUN}/adapter.safetensors", TEXTS):
        assert sha256_file(folder / name) == sha256_file(done[0] / name)


def test_damaged_shards_and_those_of_another_backbone_are_not_taken_from_a_url(
    done: tuple[Path, str], published: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(published, tmp_path / "copy"))
    shard = next(copy.glob("*/view0/*.tar"))
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(content)
    folder = copy_of(done[0], tmp_path / "here", "resources")
    arguments = configuration(tmp_path, url=copy.as_uri())
    outcome = snakemake(folder, "--keep-going", *RECEIPTS, *arguments)
    assert outcome.returncode != 0
    assert f"{shard.name} is not what its index says: its SHA-256 is another" in outcome.stderr
    assert not (store(folder) / shard.name).exists()
    arguments = configuration(tmp_path, url=copy.as_uri(), dtype="bfloat16")
    outcome = snakemake(folder, *RECEIPTS, *arguments)
    assert "has no tokens of this backbone: " in outcome.stderr
    assert "was made with dtype 'float16', not 'bfloat16'" in outcome.stderr
