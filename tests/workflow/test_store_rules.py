"""The token store through Snakemake: each photo once, and exactly what has changed once more."""

import csv
import html
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from PIL import Image

from depalm.files import read_json, sha256_file, sha256_tree
from tests.support.workflow import (
    ROOT,
    RUN,
    SMOKE,
    VQA,
    build,
    command,
    configuration,
    copy_of,
    planned,
    run,
    snakemake,
)

pytestmark = pytest.mark.dag

DATA = Path("resources/smoke/shapes-vqa")
SCORES = f"{RUN}/test.scores.json"
HALF = VQA.replace("100pct", "50pct") + "/qp_l0/seed0"
CACHE = "results/shapes-vqa/cache/vit-tiny/view0"
STORE = "results/cache"


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return configuration(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def done(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the two runs have been scored."""
    folder = build(tmp_path_factory.mktemp("done"))
    run(folder, "scores", *arguments)
    return folder


@pytest.fixture
def folder(done: Path, tmp_path: Path) -> Path:
    """A copy of it, times and Snakemake's records included."""
    return copy_of(done, tmp_path / "copy")


def jobs_of(folder: Path, *arguments: str) -> dict[str, int]:
    """The jobs by rule that Snakemake would run."""
    return {rule: n for rule, n in planned(folder, *arguments).items() if rule != "scores"}


def adapters(folder: Path) -> dict[str, tuple[str, int]]:
    """Checksum and time of every adapter."""
    return {
        str(path.relative_to(folder)): (sha256_file(path), path.stat().st_mtime_ns)
        for path in folder.glob("results/*/runs/*/*/*/*/adapter.safetensors")
    }


def shards(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256_tree(path) if path.is_dir() else sha256_file(path)
        for path in folder.glob(f"{STORE}/*/view*/[!.]*")
    }


def forwarded(log: str) -> list[int]:
    """How many files went through the backbone, extraction by extraction."""
    return [int(n) for n in re.findall(r"(\d+) of \d+ files went through the backbone", log)]


def paint(path: Path, colour: tuple[int, int, int]) -> None:
    """Other pixels in a file of the same size and name."""
    size = path.stat().st_size
    Image.new("RGB", (8, 8), colour).save(path)
    content = path.read_bytes()
    assert len(content) <= size
    path.write_bytes(content + bytes(size - len(content)))


# runs by their path


def test_a_run_outside_the_grid_works_by_its_path_and_disturbs_nothing(
    arguments: list[str], folder: Path
) -> None:
    """Of a method that reads layers which the grid does not."""
    before, rows = adapters(folder), shards(folder)
    inner = f"{VQA}/qp_inner/seed0/test.scores.json"
    jobs = {"extract": 2, "receipt": 2, "train": 1, "generate": 1, "score": 1}
    assert jobs_of(folder, inner, *arguments) == jobs
    # the test split has photos of train under other names
    assert sum(forwarded(run(folder, inner, *arguments))) == 24
    assert before.items() <= adapters(folder).items()
    assert rows.items() < shards(folder).items()
    assert jobs_of(folder, "scores", inner, *arguments) == {}


def test_a_run_outside_the_grid_works_with_an_empty_store(
    arguments: list[str], done: Path, tmp_path: Path
) -> None:
    """It extracts in one pass what the grid reads besides, which then only looks it up."""
    folder = copy_of(done, tmp_path / "new", "resources")
    inner = f"{VQA}/qp_inner/seed0/adapter.safetensors"
    assert forwarded(run(folder, inner, *arguments)) == [24]
    assert jobs_of(folder, f"{CACHE}/train/11.json", *arguments) == {"receipt": 1}
    assert jobs_of(folder, f"{CACHE}/train/cls.json", *arguments) == {"receipt": 1}


# more and less to do


def test_what_is_added_runs_and_what_is_removed_runs_nothing(
    arguments: list[str], folder: Path, tmp_path: Path
) -> None:
    before = adapters(folder)
    grid = yaml.safe_load(SMOKE.read_text())["grid"][:1]
    grid[0] |= {"methods": ["qp_l0", "limber_1"], "seeds": [0, 1], "fractions": ["100pct"]}
    more = configuration(tmp_path, "more", grid=grid)
    # limber_1 reads summary tokens, which were kept
    jobs = {"subset": 1, "receipt": 2, "train": 3, "generate": 3, "score": 3}
    assert jobs_of(folder, "scores", *more) == jobs
    assert forwarded(run(folder, "scores", *more)) == []
    assert before.items() <= adapters(folder).items()
    assert jobs_of(folder, "scores", *more) == {}
    assert jobs_of(folder, "scores", *arguments) == {}


def test_settings_that_decide_no_row_extract_nothing_again(folder: Path, tmp_path: Path) -> None:
    cache = {"shards": 3, "batch_size": 5, "workers": 2, "decode_seconds": 30}
    data = {"max_reject_fraction": 0.5, "max_rows": {"test": 8}}
    other = configuration(tmp_path, cache=cache, data=data, threads={"extract": 2})
    assert jobs_of(folder, "scores", *other) == {}
    fewer = configuration(tmp_path, data={"max_rows": {"test": 4}})
    rows = shards(folder)
    assert forwarded(run(folder, "scores", *fewer)) == [0]
    assert shards(folder) == rows
    assert read_json(folder / SCORES)["samples"] == 4


def test_a_second_dataset_over_the_same_files_extracts_nothing(
    folder: Path, tmp_path: Path
) -> None:
    """Under other names, in other splits; and what stands in both splits is told."""
    data = folder / "resources/smoke/again"
    for split, names in {"train": range(8), "test": range(4, 12)}.items():
        rows = []
        for i in names:
            (data / split).mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / DATA / f"train/images/{i}.png", data / split / f"x{i}.png")
            rows.append({"media": f"{split}/x{i}.png", "question": "?", "reference": "red"})
        text = "\n".join(map(json.dumps, rows))
        (data / f"manifest.{split}.jsonl").write_text(text)
    parts = tmp_path / "parts/datasets/again.yaml"
    parts.parent.mkdir(parents=True)
    content = yaml.safe_load(
        (SMOKE.parents[1] / "tests/smoke/datasets/shapes-vqa.yaml").read_text()
    )
    content |= {"reader": "generic", "root": "resources/smoke/again", "splits": ["train", "test"]}
    parts.write_text(yaml.safe_dump(content))
    folders = [str(tmp_path / "parts"), "tests/smoke", "config"]
    grid = yaml.safe_load(SMOKE.read_text())["grid"][:1]
    grid[0] |= {"datasets": ["again"], "fractions": ["100pct"]}
    rows_before = shards(folder)
    log = run(folder, "scores", *configuration(tmp_path, grid=grid, parts=folders))
    assert forwarded(log) == [0, 0]
    assert shards(folder) == rows_before
    assert "4 of 8 media stand in train too" in log
    scores = read_json(folder / SCORES.replace("shapes-vqa", "again"))
    assert scores["media_in_train"] == 4


# edits


def test_a_dataset_of_a_test_split_alone_tests_an_adapter(folder: Path, tmp_path: Path) -> None:
    """Nothing is trained; without an adapter the configuration is refused."""
    part = tmp_path / "parts/datasets/tested.yaml"
    part.parent.mkdir(parents=True)
    content = yaml.safe_load((ROOT / "tests/smoke/datasets/shapes-vqa.yaml").read_text())
    part.write_text(yaml.safe_dump(content | {"splits": ["test"]}))
    grid = yaml.safe_load(SMOKE.read_text())["grid"][:1]
    grid[0] |= {"datasets": ["tested"], "fractions": ["100pct"]}
    parts = [str(tmp_path / "parts"), "tests/smoke", "config"]
    table = [{"name": "tested", "title": "Tested"}]
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name in ("adapter.safetensors", "adapter.json"):
        shutil.copy(folder / RUN / name, adapter / name)
    said = {"parts": parts, "grid": grid, "tables": table}
    alone = configuration(tmp_path, "alone", **said)
    refused = snakemake(folder, "-n", *alone)
    told = "dataset tested has no split train, so its runs need a trained adapter"
    assert told in refused.stdout + refused.stderr
    given = configuration(tmp_path, "given", **said, checkpoint=str(adapter))
    tested = SCORES.replace("shapes-vqa", "tested")
    jobs = {
        "manifest": 1,
        "extract": 1,
        "receipt": 1,
        "generate": 1,
        "score": 1,
        "table": 1,
        "report": 1,
    }
    assert jobs_of(folder, *given) == jobs
    assert forwarded(run(folder, *given)) == [0]  # its photos are in the store
    kept = ("metrics", "samples")
    scores = [read_json(folder / name) for name in (SCORES, tested)]
    assert [scores[0][key] for key in kept] == [scores[1][key] for key in kept]
    assert scores[1]["media_in_train"] is None


def test_an_edited_photo_is_one_row_and_the_runs_that_read_it(
    arguments: list[str], folder: Path
) -> None:
    ids = read_json(folder / "results/shapes-vqa/subsets/50pct/seed0.json")["ids"]
    left_out = next(
        i for i in range(24) if {f"train-{2 * i}", f"train-{2 * i + 1}"}.isdisjoint(ids)
    )
    photo = folder / DATA / f"train/images/{left_out}.png"
    times = photo.stat()
    before, size = adapters(folder), times.st_size
    paint(photo, (1, 2, 3))
    assert photo.stat().st_size == size
    os.utime(photo, ns=(times.st_atime_ns, times.st_mtime_ns))  # its time tells nothing
    log = run(folder, "scores", *arguments)
    assert forwarded(log) == [1]
    after = adapters(folder)
    half, whole = f"{HALF}/adapter.safetensors", f"{RUN}/adapter.safetensors"
    assert after[half][0] == before[half][0]
    assert after[whole][0] != before[whole][0]
    # the other run was neither trained nor did it generate
    assert log.count("a job with the same inputs has finished this") == 2
    assert jobs_of(folder, "scores", *arguments) == {}


def test_an_edited_test_photo_trains_nothing(arguments: list[str], folder: Path) -> None:
    before = adapters(folder)
    paint(folder / DATA / "test/images/3.png", (200, 2, 3))
    jobs = {"manifest": 1, "extract": 1, "receipt": 1, "generate": 2, "score": 2}
    assert jobs_of(folder, "scores", *arguments) == jobs
    assert forwarded(run(folder, "scores", *arguments)) == [1]
    assert adapters(folder) == before


def test_edited_annotations_are_noticed_and_an_edit_taken_back_too(
    arguments: list[str], folder: Path
) -> None:
    path = folder / DATA / "test/questions.json"
    content = path.read_text()
    path.write_text(content.replace("red", "der", 1))
    jobs = {"manifest": 1, "extract": 1, "receipt": 1, "generate": 2, "score": 2}
    assert jobs_of(folder, "scores", *arguments) == jobs
    path.write_text(content)
    assert jobs_of(folder, "scores", *arguments) == {}


@pytest.mark.parametrize(
    ("name", "jobs"),
    [
        ("llama-tiny/tokenizer.json", {"train": 2, "generate": 2, "score": 2}),
        (
            "vit-tiny/model.safetensors",
            {"extract": 2, "receipt": 2, "train": 2, "generate": 2, "score": 2},
        ),
    ],
)
def test_edited_files_of_a_local_model_are_noticed(
    arguments: list[str], folder: Path, name: str, jobs: dict[str, int]
) -> None:
    path = folder / "resources/smoke" / name
    content = bytearray(path.read_bytes())
    if path.suffix == ".json":
        content = content.replace(b'"~"', b'"\xc2\xac"').replace(b"  ", b" ", 1)
    else:
        content[-1] ^= 1
    path.write_bytes(content)
    assert jobs_of(folder, "scores", *arguments) == jobs


def test_stray_touched_and_copied_files_run_nothing(arguments: list[str], folder: Path) -> None:
    (folder / DATA / "notes.txt").write_text("stray")
    (folder / DATA / "train/images/stray.png").write_bytes(b"stray")
    (folder / "resources/smoke/llama-tiny/README.md").write_text("stray")
    for path in (folder / "resources").rglob("*"):
        os.utime(path)
    assert jobs_of(folder, "scores", *arguments) == {}


def test_another_checkout_takes_results_over_without_the_records_of_snakemake(
    arguments: list[str], done: Path, tmp_path: Path
) -> None:
    folder = copy_of(done, tmp_path / "there", "resources", "results")
    for path in (folder / "resources").rglob("*"):
        os.utime(path)  # its data and models are newer than the results
    assert jobs_of(folder, "scores", *arguments) == {}
    paint(folder / DATA / "test/images/3.png", (200, 2, 3))
    assert jobs_of(folder, "scores", *arguments)["generate"] == 2


def test_looking_for_edits_can_be_turned_off(folder: Path, tmp_path: Path) -> None:
    paint(folder / DATA / "test/images/3.png", (200, 2, 3))
    off = configuration(tmp_path, data={"notice_edits": False})
    assert jobs_of(folder, "scores", *off) == {}


# damage, upkeep, and force


def test_force_makes_nothing_twice(arguments: list[str], folder: Path) -> None:
    before, rows = adapters(folder), shards(folder)
    assert forwarded(run(folder, "--forceall", "scores", *arguments)) == [0, 0]
    assert shards(folder) == rows
    assert [sha for sha, _ in adapters(folder).values()] == [sha for sha, _ in before.values()]
    assert jobs_of(folder, "scores", *arguments) == {}


def test_a_clock_that_goes_back_hides_no_edit_and_runs_nothing_again(
    arguments: list[str], folder: Path
) -> None:
    """All is dated tomorrow."""
    tomorrow = time.time() + 86400
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (tomorrow, tomorrow), follow_symlinks=False)
    assert jobs_of(folder, "scores", *arguments) == {}
    other = f"{VQA}/qp_l0/seed1/test.scores.json"
    before = [sha for sha, _ in adapters(folder).values()]
    assert jobs_of(folder, other, *arguments) == {
        "subset": 1,
        "train": 1,
        "generate": 1,
        "score": 1,
    }
    run(folder, other, *arguments)
    paint(folder / DATA / "test/images/3.png", (200, 2, 3))
    assert jobs_of(folder, "scores", *arguments)["generate"] == 2
    run(folder, "scores", *arguments)
    assert jobs_of(folder, "scores", *arguments) == {}
    assert set(before) < {sha for sha, _ in adapters(folder).values()}


def as_user(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Snakemake by a user whom permissions bind: root without what makes it free of them."""
    plain: list[str] = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may do everything, and setpriv (util-linux) is not installed")
        dropped = "-dac_override,-dac_read_search,-fowner"
        plain = ["setpriv", f"--bounding-set={dropped}"]
    return subprocess.run(
        [*plain, *command(folder, *arguments)], capture_output=True, text=True, cwd=ROOT
    )


def test_read_only_results_can_be_used_and_are_told(arguments: list[str], folder: Path) -> None:
    results, before = folder / "results", adapters(folder)
    for path in [*results.rglob("*"), results]:
        path.chmod(path.stat().st_mode & ~0o222)
    done = as_user(folder, "scores", *arguments)
    assert (done.returncode, "Nothing to be done" in done.stderr) == (0, True)
    assert "edits are not looked for: results/" in done.stderr
    new = as_user(folder, f"{VQA}/qp_l0/seed1/test.scores.json", *arguments)
    assert new.returncode == 1
    assert "this user may not; ask its owner for the right, or work in a folder" in new.stderr
    assert "Traceback" not in new.stderr
    for path in [results, *results.rglob("*")]:
        path.chmod(path.stat().st_mode | 0o200)
    assert adapters(folder) == before
    assert jobs_of(folder, "scores", *arguments) == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_a_second_user_destroys_nothing_of_the_first(arguments: list[str], folder: Path) -> None:
    before = adapters(folder)
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, 12345, 12345, follow_symlinks=False)
    outcome = as_user(folder, "--forceall", "scores", *arguments)
    assert outcome.returncode == 1
    assert "cannot be written by this user: work in a folder of" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert adapters(folder) == before
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, 0, 0, follow_symlinks=False)
    # an adapter that is the other user's alone disturbs no other run
    for path in folder.glob("results/*/runs/*/*/*/*/adapter.safetensors"):
        os.chown(path, 12345, 12345)
        path.chmod(0o600)
    new = as_user(folder, f"{VQA}/qp_l0/seed1/test.scores.json", *arguments)
    assert new.returncode == 0, new.stderr


def test_two_at_once_in_one_folder_are_kept_apart(arguments: list[str], folder: Path) -> None:
    """By Snakemake's lock: the second one says so, and the first goes on."""
    new = f"{VQA}/qp_l0/seed1/test.scores.json"
    with subprocess.Popen(
        command(folder, new, *arguments),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as first:
        assert first.stderr is not None
        lines = iter(first.stderr.readline, "")
        assert any("Select jobs to execute" in line for line in lines)
        second = snakemake(folder, "--forceall", "scores", *arguments)
        rest = first.stderr.read()
    assert second.returncode == 1
    assert "Directory cannot be locked" in second.stderr
    assert first.returncode == 0, rest
    assert jobs_of(folder, "scores", new, *arguments) == {}


def test_after_a_failed_run_the_table_is_of_the_others_and_says_so(
    arguments: list[str], folder: Path, tmp_path: Path
) -> None:
    """And not an old one, which would look as if it were of today."""
    table = folder / "results/tables/smoke.md"
    run(folder, str(table.relative_to(folder).with_suffix(".html")), *arguments)
    whole = table.read_text()
    assert "Incomplete" not in whole
    assert "50%" in whole
    values = figures(table)
    broken = [{"where": {"fractions": ["50pct"]}, "train": {"lr": 1e30}}]
    failing = configuration(tmp_path, "failing", overrides=broken)
    outcome = snakemake(folder, "--keep-going", *failing)
    assert outcome.returncode == 1
    left = table.read_text()
    assert "50%" not in left
    incomplete = f"Incomplete: 1 run is missing: {HALF} ("
    assert incomplete in left.replace("\\", "")
    assert html.escape(incomplete) in (folder / "results/report.html").read_text()
    (folder / "tests").symlink_to(ROOT / "tests")  # where the parts of the smoke run are
    # the same by hand, of what stands for these settings, and for the others
    told = depalm(folder, "tables", *failing)
    assert "of 1 runs, without 1 runs that are missing" in told.stderr
    assert table.read_text() == left
    # with settings that work it is whole again, and has the same figures
    run(folder, *arguments)
    assert "Incomplete" not in table.read_text()
    assert figures(table) == values


def figures(table: Path) -> list[dict[str, str]]:
    """The lines of a table without what a clock measured."""
    with table.with_suffix(".csv").open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert all(line.pop("train_seconds") for line in lines if line["dataset"])
    return lines


def depalm(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    outcome = subprocess.run(
        [sys.executable, "-m", "depalm", *command], cwd=folder, capture_output=True, text=True
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome


def test_caches_of_an_earlier_version_are_told(arguments: list[str], folder: Path) -> None:
    old = folder / CACHE / "test/shard-0-of-1.zarr"
    old.mkdir()
    log = snakemake(folder, "--dry-run", "scores", *arguments).stderr
    assert "made by an earlier version" in log
    assert "shard-0-of-1.zarr" in log
