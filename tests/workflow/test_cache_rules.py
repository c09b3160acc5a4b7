"""The rules around the token cache: its size beforehand, shards side by side, and from a URL."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from depalm.files import sha256_file
from tests.support.web import range_server, serve
from tests.support.workflow import RUN, SMOKE, build, planned, snakemake

SHARDS = [
    f"results/shapes-vqa/cache/vit-tiny/view0/{split}/shard-{i}-of-2.tar"
    for split in ("train", "test")
    for i in range(2)
]

pytestmark = pytest.mark.dag


def configuration(folder: Path, **cache: Any) -> list[str]:
    """Arguments of a smoke run with one dataset and webdataset shards."""
    settings = yaml.safe_load(SMOKE.read_text())
    settings["grid"] = settings["grid"][:1]
    settings["cache"] |= {"format": "webdataset", "shards": 2, **cache}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return ["--configfile", str(folder / "config.yaml")]


def checksums(folder: Path) -> list[str]:
    return [sha256_file(folder / shard) for shard in SHARDS]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return configuration(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def sizes(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which just `cache_size` was asked for, and what that printed."""
    folder = build(tmp_path_factory.mktemp("done"))
    outcome = snakemake(folder, "cache_size", *arguments)
    assert outcome.returncode == 0, outcome.stderr
    assert {path.name for path in folder.glob("results/*/*")} == {"manifest"}
    return folder, outcome.stdout


@pytest.fixture(scope="module")
def done(arguments: list[str], sizes: tuple[Path, str]) -> tuple[Path, str]:
    """That folder with all shards, and Snakemake's log."""
    outcome = snakemake(sizes[0], "caches", *arguments)
    assert outcome.returncode == 0, outcome.stderr
    return sizes[0], outcome.stderr


def test_sizes_are_printed_by_layer_before_anything_runs(
    sizes: tuple[Path, str], done: tuple[Path, str]
) -> None:
    rows = [line.split() for line in sizes[1].splitlines() if line.startswith("shapes-vqa")]
    assert [row[:5] for row in rows] == [
        ["shapes-vqa", "vit-tiny", "0", split, array]
        for split in ("train", "test")
        for array in ("cls", "tokens/layer_11")
    ]
    total = int(sizes[1].splitlines()[-1].removeprefix("total").replace(",", ""))
    assert sum(int(row[-1].replace(",", "")) for row in rows) == total
    written = sum((done[0] / shard).stat().st_size for shard in SHARDS)
    assert total < written < total + len(SHARDS) * 10_000  # the metadata


def test_shards_are_extracted_side_by_side_and_stages_are_timed(done: tuple[Path, str]) -> None:
    folder, log = done
    first_end = log.index("Finished jobid")
    assert len(re.findall(r"rule extract:", log[:first_end])) == 2  # of 2 cores
    logs = list(folder.glob("logs/extract/shapes-vqa/vit-tiny/view0/*/shard-*.log"))
    assert len(logs) == 4
    for path in logs:
        stages = ("waiting for decoding", "backbone", "waiting for writing")
        assert all(re.search(rf"{stage} [0-9.]+ s", path.read_text()) for stage in stages)


def test_a_shard_is_extracted_again_alone(arguments: list[str], done: tuple[Path, str]) -> None:
    folder, _ = done
    before, lost = checksums(folder), folder / SHARDS[1]
    times = {shard: (folder / shard).stat().st_mtime_ns for shard in SHARDS}
    lost.unlink()
    assert planned(folder, "caches", *arguments) == {"caches": 1, "extract": 1}
    assert snakemake(folder, "caches", *arguments).returncode == 0
    assert checksums(folder) == before
    changed = [shard for shard in SHARDS if (folder / shard).stat().st_mtime_ns != times[shard]]
    assert changed == [SHARDS[1]]


def test_shards_come_from_a_url(done: tuple[Path, str], tmp_path: Path) -> None:
    folder = build(tmp_path / "here")
    with serve(done[0] / "results") as url:
        arguments = configuration(tmp_path, url=url)
        assert planned(folder, "caches", *arguments) == {"caches": 1, "fetch_shard": 4}
        outcome = snakemake(folder, "caches", *arguments)
    assert outcome.returncode == 0, outcome.stderr
    assert checksums(folder) == checksums(done[0])


def test_streamed_shards_are_neither_extracted_nor_fetched(tmp_path: Path) -> None:
    folder = build(tmp_path / "here")
    arguments = configuration(tmp_path, url="https://host.invalid/results", stream=True)
    jobs = planned(folder, "scores", *arguments)
    assert not jobs.keys() & {"extract", "fetch_shard"}
    assert jobs["train"] == jobs["generate"] == 2
    assert planned(folder, "caches", *arguments) == {"caches": 1}
    outcome = snakemake(folder, "cache_size", *arguments)
    assert re.search(r"^total +0$", outcome.stdout, re.MULTILINE), outcome.stderr
    assert not (folder / "results").exists()


def test_a_streamed_run_ends_with_the_bytes_of_one_from_the_disk(
    arguments: list[str], done: tuple[Path, str], tmp_path: Path
) -> None:
    folder = build(tmp_path / "here")
    predictions = f"{RUN}/test.predictions.jsonl"
    with range_server(done[0] / "results") as site:
        streamed = configuration(tmp_path, url=f"{site.url}/", stream=True)
        outcome = snakemake(folder, predictions, *streamed)
    assert outcome.returncode == 0, outcome.stderr
    assert site.ranges
    assert not list(folder.glob("results/*/cache"))
    assert snakemake(done[0], predictions, *arguments).returncode == 0
    for name in (f"{RUN}/adapter.safetensors", predictions):
        assert sha256_file(folder / name) == sha256_file(done[0] / name)


def test_a_damaged_shard_is_not_taken_from_a_url(done: tuple[Path, str], tmp_path: Path) -> None:
    shutil.copytree(done[0] / "results", tmp_path / "results")
    content = bytearray((tmp_path / SHARDS[0]).read_bytes())
    content[5000] ^= 1  # in the CLS of the first sample
    (tmp_path / SHARDS[0]).write_bytes(content)
    folder = build(tmp_path / "here")
    arguments = configuration(tmp_path, url=(tmp_path / "results").as_uri())
    outcome = snakemake(folder, "--keep-going", *SHARDS[:2], *arguments)
    assert outcome.returncode != 0
    assert "shard-0-of-2.tar: cls is damaged" in outcome.stderr
    assert not (folder / SHARDS[0]).exists()
    assert sha256_file(folder / SHARDS[1]) == checksums(done[0])[1]
