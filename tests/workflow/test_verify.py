"""`depalm verify`: results that are made again are equal, and what was changed is found."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from depalm.cache.reader import open_shard
from tests.support.workflow import ROOT, RUN, build, configuration, copy_of, run

pytestmark = pytest.mark.dag


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return configuration(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def done(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build(tmp_path_factory.mktemp("done"))
    run(folder, "scores", *arguments)
    (folder / "tests").symlink_to(ROOT / "tests")  # where the parts of the smoke run are
    return folder


@pytest.fixture
def folder(done: Path, tmp_path: Path) -> Path:
    folder = copy_of(done, tmp_path / "copy")
    (folder / "tests").symlink_to(ROOT / "tests")
    return folder


def verify(folder: Path, *asked: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "depalm", "verify", *asked]
    return subprocess.run(program, capture_output=True, text=True, cwd=folder)


def test_results_that_nobody_touched_are_equal(done: Path, arguments: list[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (done / "results").rglob("*")}
    found = verify(done, *arguments)
    assert found.returncode == 0, found.stdout + found.stderr
    lines = found.stdout.splitlines()
    assert len(lines) == 2 * 6
    assert lines[:6] == [
        RUN,
        "  adapter, by its checksum: 1 equal",
        "  rows of the token store, by their checksums: 7 equal",
        "  tokens of media, through the backbone: 7 equal",
        "  texts, generated: 8 equal",
        "  scores, from the texts: 8 equal",
    ]
    assert {path: path.stat().st_mtime_ns for path in (done / "results").rglob("*")} == before


def test_what_was_changed_is_found(folder: Path, arguments: list[str]) -> None:
    said = folder / RUN / "test.texts.jsonl"
    lines = said.read_text().splitlines(keepends=True)
    changed = lines[0].replace('"prediction": "', '"prediction": "red ')
    said.write_text("".join([changed, *lines[1:]]))
    found = verify(folder, RUN, *arguments)
    assert found.returncode == 1
    assert "texts, generated: 1 of 8 are others: " in found.stdout
    assert re.search(r"^  scores: .*test\.texts\.jsonl is damaged", found.stdout, re.MULTILINE)
    assert "tokens of media, through the backbone: 7 equal" in found.stdout
    assert "2 things differ in 1 runs" in found.stderr

    adapter = folder / RUN / "adapter.safetensors"
    content = bytearray(adapter.read_bytes())
    content[-1] ^= 1
    adapter.write_bytes(content)
    found = verify(folder, RUN, *arguments)
    assert "adapter, by its checksum: its SHA-256 is" in found.stdout
    assert "adapter.safetensors is damaged" in found.stdout

    scores = folder / RUN / "test.scores.json"
    scores.write_text(scores.read_text().replace('"samples": 8', '"samples": 9'))
    found = verify(folder, RUN, *arguments)
    assert found.returncode == 1
    assert "its scores are damaged: its content has another checksum" in found.stdout


def test_a_row_that_was_changed_is_found(folder: Path, arguments: list[str]) -> None:
    for path in folder.glob("results/cache/*/view0/*.zarr"):
        for chunk in path.glob("tokens/*/c/**/*"):
            if chunk.is_file():
                content = bytearray(chunk.read_bytes())
                for place in range(0, len(content) * 9 // 10, 97):  # in every row
                    content[place] ^= 1
                chunk.write_bytes(content)
        assert open_shard(path).arrays
    found = verify(folder, RUN, *arguments)
    assert found.returncode == 1
    assert "  rows: " in found.stdout
    assert "damaged" in found.stdout


def test_runs_that_are_not_there_are_told(done: Path, arguments: list[str], tmp_path: Path) -> None:
    unknown = verify(done, "results/x", *arguments)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "results/x is no run of this configuration" in unknown.stderr
    other = configuration(tmp_path, "other", train={"steps": 5})
    none = verify(done, *other)
    assert none.returncode == 1
    assert "not verified: its scores are of other settings" in none.stdout
    assert "no run has scores of this configuration" in none.stderr
