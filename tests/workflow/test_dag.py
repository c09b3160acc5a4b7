"""The whole DAG on tiny data with tiny random models (config/smoke.yaml), as a user runs it."""

import csv
import glob
import json
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from depalm import load_adapter
from depalm.adapters.errors import AdapterError
from depalm.cache.store import open_folder
from depalm.config.load import load_files
from depalm.cost import CostPlan, as_table
from depalm.datasets.manifest import Sample, read_manifest
from depalm.evaluation.scores import read_texts
from depalm.files import read_checked, read_json, sha256_file, write_checked
from tests.support.clones import clone, snakemake_in
from tests.support.workflow import ROOT, RUN, SMOKE, build, command, planned, snakemake

STORE = "results/cache"
# the second half of `make smoke`, which goes on in the same folder
WEBDATASET = ["--configfile", str(SMOKE), str(SMOKE.with_name("smoke-webdataset.yaml"))]
DATASETS = {
    *("shapes-vqa", "shapes-captions", "coco-tiny", "vqav2-tiny", "okvqa-tiny", "aokvqa-tiny"),
    *("textcaps-tiny", "textvqa-tiny", "audiocaps-tiny", "msrvtt-tiny"),
}


pytestmark = pytest.mark.dag


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything has run."""
    folder = build(tmp_path_factory.mktemp("done"))
    for arguments in (WEBDATASET, []):
        outcome = snakemake(folder, *arguments)
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return folder


def test_every_run_is_trained_generated_scored_and_in_the_tables(done: Path) -> None:
    paths = sorted(done.glob("results/*/runs/*/*/*/*/test.scores.json"))
    paths += sorted(done.glob("results/*/runs/*/*/*/*/val.scores.json"))
    assert {path.relative_to(done / "results").parts[0] for path in paths} == DATASETS
    assert len(paths) == 16
    for path in paths:
        scores = read_json(path)
        assert scores["samples"] == 8
        assert all(scores[key] for key in ("commit", "config_sha256", "versions", "device"))
        assert scores["trainable_parameters"] > 0
        assert list(path.parent.glob("training/tensorboard/events*"))
        log = (path.parent / "train.jsonl").read_text().splitlines()
        assert len(log) == scores["steps"]
        asked = path.with_name(path.name.replace("scores.json", "predictions.jsonl"))
        rows = [json.loads(line) for line in asked.read_text().splitlines()]
        assert len(rows) == scores["samples"]
        assert {"id", "media", "prompt", "prediction", "references", "score"} <= set(rows[0])
    rows = list(csv.DictReader((done / "results/tables/smoke.csv").open()))
    scored = [row for row in rows if row["n"] not in ("", "0")]
    cells = {(row["method"], row["fraction"], row["metric"]): row for row in scored}
    assert cells["qp_l0", "50pct", "vqa_accuracy"]["n"] == "1"
    assert cells["limber_1", "100pct", "cider"]["n"] == "2"
    assert float(cells["limber_1", "100pct", "meteor"]["mean"]) >= 0
    assert {path.suffix for path in (done / "results/tables").iterdir()} == {
        *(".csv", ".md", ".html", ".tex")
    }
    report = (done / "results/report.html").read_text()
    assert all(f"<h3>{name}</h3>" in report for name in ("shapes-vqa", "audiocaps-tiny"))
    shown = {path.suffix for path in (done / "results/report").rglob("[!.]*") if path.is_file()}
    assert shown == {".jpg", ".wav"}


def found(done: Path, sample: Sample) -> Path:
    paths = done.glob(f"resources/**/{glob.escape(sample.media)}")
    return next(path for path in paths if sha256_file(path) == sample.sha256)


def test_an_adapter_that_is_asked_answers_as_the_pipeline_did(done: Path) -> None:
    records = sorted(done.glob("results/*/runs/*/*/*/seed0/adapter.json"))
    assert len(records) >= 12
    for record in records:
        predictions = next(record.parent.glob("*.texts.jsonl"))
        split = predictions.name.split(".")[0]
        samples = read_manifest(record.parents[5] / f"manifest/{split}.parquet")
        said = read_texts(predictions)
        model = load_adapter(record.parent, device="cpu")
        model.usage = model.usage.model_copy(update={"template": "{question}"})
        for sample in samples[:3]:
            media = found(done, sample) if model.backbone is not None else None
            assert model.answer(media, sample.prompt) == said[sample.id], (record, sample.id)


def test_one_asks_on_the_command_line(done: Path, tmp_path: Path) -> None:
    run, manifest = done / RUN, read_manifest(done / "results/shapes-vqa/manifest/test.parquet")
    sample, other = (next(s for s in manifest if s.media != m) for m in ("", manifest[0].media))
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, of in (("a.png", sample), ("b.PNG", other)):
        shutil.copy(found(done, of), photos / name)
    model = load_adapter(run)
    question = "What shape is it?"
    said = [model.answer(photos / name, question) for name in ("a.png", "b.PNG")]
    assert model.prompt(question) != question

    def predict(*asked: str) -> "subprocess.CompletedProcess[str]":
        program = [sys.executable, "-m", "depalm", "predict", "--adapter", str(run)]
        return subprocess.run([*program, *asked], capture_output=True, text=True, cwd=tmp_path)

    alone = predict("photos/a.png", question)
    assert alone.returncode == 0, alone.stderr
    assert alone.stdout == said[0] + "\n"
    many = predict("photos", question, "And its colour?", "--json")
    rows = [json.loads(line) for line in many.stdout.splitlines()]
    assert [(Path(row["media"]).name, row["prompt"]) for row in rows] == [
        *(("a.png", question), ("a.png", "And its colour?")),
        *(("b.PNG", question), ("b.PNG", "And its colour?")),
    ]
    assert [row["prediction"] for row in rows if row["prompt"] == question] == said
    (photos / "c.jpg").write_text("no photo")
    part = predict("photos", question)
    assert part.returncode == 1
    assert [line.split("\t")[2] for line in part.stdout.splitlines()] == [*said, "-"]
    assert "no answer about photos/c.jpg" in part.stderr
    for asked, message in (
        (["photos/d.jpg", question], "photos/d.jpg: no such file"),
        ([question], "this adapter reads media"),
    ):
        refused = predict(*asked)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert message in refused.stderr


def test_one_asks_on_a_page(done: Path) -> None:
    """By the command, as the page asks: the answer is the pipeline's."""
    sample = read_manifest(done / "results/shapes-vqa/manifest/test.parquet")[0]
    program = [sys.executable, "-m", "depalm", "chat", str(done / RUN), "--port", "0"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=done) as page:
        try:
            assert page.stdout is not None
            address = page.stdout.readline().split()[0]
            question = sample.prompt.removesuffix("\n\nAnswer:\n")
            request = urllib.request.Request(
                f"{address}/answer?question={urllib.parse.quote(question)}",
                found(done, sample).read_bytes(),
                {"X-Depalm": "chat"},
            )
            with urllib.request.urlopen(request, timeout=60) as response:
                said = json.load(response)
        finally:
            page.terminate()
    assert said == {"answer": read_texts(done / RUN / "test.texts.jsonl")[sample.id]}


def test_an_adapter_elsewhere_finds_its_models_or_says_what_it_lacks(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, moved = done / RUN, tmp_path / "adapter"
    moved.mkdir()
    for name in ("adapter.safetensors", "adapter.json"):
        shutil.copy(run / name, moved)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AdapterError, match=r"resources/\S+, which is not here.*no source"):
        load_adapter(moved)
    image = found(done, read_manifest(done / "results/shapes-vqa/manifest/test.parquet")[0])
    expected = load_adapter(run).answer(image, "What?")
    assert load_adapter(moved, resources=done).answer(image, "What?")
    decoding = {"max_new_tokens": 5, "dtype": "float32"}
    assert expected is not None
    assert load_adapter(moved, resources=done, **decoding).decoding.max_new_tokens == 5
    record = read_checked(moved / "adapter.json")
    record["llm"]["sha256"] = "0" * 64
    write_checked(moved / "adapter.json", record)
    with pytest.raises(AdapterError, match="trained with another llm"):
        load_adapter(moved, resources=done)
    del record["usage"]
    write_checked(moved / "adapter.json", record)
    with pytest.raises(AdapterError, match="does not say how the adapter is used"):
        load_adapter(moved, resources=done)


def test_both_cache_formats_and_augmented_views_are_read(done: Path) -> None:
    files = list(done.glob(f"{STORE}/*/view*/[!.]*"))
    assert {path.suffix for path in files} == {".zarr", ".tar"}
    whisper = [p.relative_to(done / STORE).parts for p in files if "whisper" in str(p)]
    assert {view for _, view, _ in whisper} == {"view0", "view1"}
    cache = done / "results/audiocaps-tiny/cache/whisper-tiny"
    assert sorted(str(path.relative_to(cache)) for path in cache.glob("*/*/*.json")) == [
        "view0/test/2.json",
        "view1/train/2.json",
    ]
    rows = list(csv.DictReader((done / "results/tables/smoke-webdataset.csv").open()))
    assert {row["backbone"] for row in rows} == {"whisper-tiny", "clap-random"}


def test_a_run_online_needs_no_cache_and_keeps_what_it_tuned(done: Path) -> None:
    assert not (done / "results/textvqa-tiny/cache").exists()
    run = done / "results/textvqa-tiny/runs/100pct/vit-tiny+llama-tiny/epalm/seed0"
    tuned = [name for name in load_file(run / "adapter.safetensors") if "backbone" in name]
    assert len(tuned) > 12
    assert read_json(run / "val.scores.json")["samples"] == 8


def test_a_second_run_has_nothing_to_do(done: Path) -> None:
    assert planned(done) == {}
    # the report is that of the configuration which ran last
    assert planned(done, *WEBDATASET) == {"report": 1}


def test_what_jobs_took_is_kept_and_told(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside what was predicted of them; without it nothing runs again."""
    scores = [read_json(path) for path in done.glob("results/*/runs/*/*/*/*/*.scores.json")]
    keys = ("train_seconds_predicted", "generate_seconds_predicted")
    assert all(run[key] >= 0 for run in scores for key in keys)
    assert "(predicted " in (done / "results/tables/smoke.md").read_text()
    for rule, made in (
        ("train", "runs/*/*/*/*/adapter.json"),
        ("extract", "cache/*/*/*/extr*/*/*"),
    ):
        kept = [path for path in done.glob(f"benchmarks/{rule}/**/*") if path.is_file()]
        assert len(kept) == len([*done.glob(f"results/*/{made}")])
    monkeypatch.chdir(done)
    told = as_table(CostPlan(load_files([SMOKE], [Path(), ROOT]), "cpu"))
    assert "Speed of extraction, training, generation: as earlier jobs here have measured" in told
    assert re.search(r"^in all +\d+ +0 ", told, re.MULTILINE)
    (done / "benchmarks").rename(done / "elsewhere")
    assert planned(done) == {}
    (done / "elsewhere").rename(done / "benchmarks")


def test_more_workers_change_no_result(done: Path, tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("cache: {workers: 2}")
    assert planned(done, "--configfile", str(SMOKE), str(tmp_path / "more.yaml")) == {}


def test_a_deleted_score_is_scored_again_and_nothing_else(done: Path) -> None:
    path = done / RUN / "test.scores.json"
    before = path.read_bytes()
    path.unlink()
    assert planned(done) == {"score": 1, "table": 1, "report": 1}
    assert snakemake(done).returncode == 0
    assert path.read_bytes() == before


def test_a_damaged_adapter_is_made_anew_by_the_same_command(done: Path) -> None:
    """The first time it fails, and its log ends with the error; it never has nothing to do."""
    path, scores = done / RUN / "adapter.safetensors", f"{RUN}/test.scores.json"
    before, predictions = path.read_bytes(), (done / RUN / "test.texts.jsonl").read_bytes()
    path.unlink()  # not the file that training/ keeps too
    path.write_bytes(before[:-100])
    outcome = snakemake(done, scores)
    assert outcome.returncode != 0
    log = done / f"logs/generate/{RUN.removeprefix('results/').replace('runs/', '')}/test.log"
    last = log.read_text().splitlines()[-1]
    assert re.search(r"DamagedAdapter: .*adapter\.safetensors is damaged", last)
    assert "run the same command again" in last
    assert last in outcome.stderr
    assert "Traceback" not in log.read_text()
    assert not (done / RUN / "test.texts.jsonl").exists()
    outcome = snakemake(done, scores)
    assert outcome.returncode == 0, outcome.stderr
    assert path.read_bytes() == before
    assert (done / RUN / "test.texts.jsonl").read_bytes() == predictions
    assert planned(done, scores) == {}


def test_damaged_texts_are_made_anew_by_the_same_command(done: Path) -> None:
    path, scores = done / RUN / "test.texts.jsonl", f"{RUN}/test.scores.json"
    before = path.read_bytes()
    path.unlink()  # not the file that generation/ keeps too
    path.write_bytes(bytes([before[0], before[1] ^ 1, *before[2:]]))
    (done / scores).unlink()
    outcome = snakemake(done, scores)
    assert outcome.returncode != 0
    assert "test.texts.jsonl was damaged: its SHA-256 is" in outcome.stderr
    assert "give the same command again" in outcome.stderr
    outcome = snakemake(done, scores)
    assert outcome.returncode == 0, outcome.stderr
    assert path.read_bytes() == before
    assert planned(done, scores) == {}


def test_one_output_is_asked_for_by_its_path(done: Path) -> None:
    """Also of a run that no list names."""
    path = RUN.replace("seed0", "seed7")
    jobs = {"subset": 1, "train": 1, "generate": 1, "score": 1}
    assert planned(done, f"{path}/test.scores.json") == jobs
    assert planned(done, f"{path}/adapter.safetensors") == {"subset": 1, "train": 1}


def test_an_adapter_is_tested_or_trained_on_by_one_command(done: Path, tmp_path: Path) -> None:
    """As somebody who got its two files from elsewhere."""
    for name in ("adapter.safetensors", "adapter.json"):
        shutil.copy(done / RUN / name, tmp_path / name)
    tested = RUN.replace("seed0", "seed8")
    outcome = snakemake(
        done, f"{tested}/test.scores.json", "--config", f"checkpoint={tmp_path.as_posix()}"
    )
    assert outcome.returncode == 0, outcome.stderr
    predictions = [(done / run / "test.texts.jsonl").read_bytes() for run in (RUN, tested)]
    assert predictions[0] == predictions[1]
    assert not (done / tested / "adapter.safetensors").exists()

    trained_on = RUN.replace("seed0", "seed9")
    start = f"train={{init_from: {tmp_path.as_posix()}}}"
    outcome = snakemake(done, f"{trained_on}/adapter.safetensors", "--config", start)
    assert outcome.returncode == 0, outcome.stderr
    logs = [(done / run / "train.jsonl").read_text().splitlines() for run in (RUN, trained_on)]
    first, last, goes_on = (
        json.loads(line)["loss"] for line in (logs[0][0], logs[0][-1], logs[1][0])
    )
    assert abs(goes_on - last) < abs(goes_on - first)


@pytest.mark.parametrize(
    ("part", "jobs"),
    [
        ("methods/qp_l0", {"train": 4, "generate": 4, "score": 4, "table": 1, "report": 1}),
        (
            "backbones/vit-tiny",
            {
                **{"extract": 4, "receipt": 4, "train": 6, "generate": 6, "score": 6},
                "table": 1,
                "report": 1,
            },
        ),
    ],
)
def test_another_version_of_a_part_reruns_exactly_its_descendants(
    done: Path, tmp_path: Path, part: str, jobs: dict[str, int]
) -> None:
    source = next(
        p for d in ("tests/smoke", "config") if (p := ROOT / d / f"{part}.yaml").is_file()
    )
    changed = tmp_path / "parts" / f"{part}.yaml"
    changed.parent.mkdir(parents=True)
    changed.write_text(source.read_text().replace("version: 1", "version: 2"))
    folders = [str(tmp_path / "parts"), "tests/smoke", "config"]
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**yaml.safe_load(SMOKE.read_text()), "parts": folders}))
    assert planned(done, "--configfile", str(config)) == jobs


def carry(source: Path, destination: Path) -> None:
    """Copy what has run to a clone, times included: cp -a."""
    for name in ("results", "resources", ".snakemake/metadata"):
        shutil.copytree(source / name, destination / name, symlinks=True)


def test_results_count_in_another_clone_until_a_version_is_raised(
    done: Path, tmp_path: Path
) -> None:
    """Its scripts and configuration are newer than the results; only what is in them counts."""
    settings = yaml.safe_load(SMOKE.read_text())
    settings["tables"][0]["published"] = "config/published.csv"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    arguments = ("--configfile", str(tmp_path / "config.yaml"))
    first = clone(tmp_path / "first")
    carry(done, first)
    assert planned(first, *arguments, run=snakemake_in) == {"table": 1, "report": 1}
    outcome = snakemake_in(first, *arguments)
    assert outcome.returncode == 0, outcome.stderr
    second = clone(tmp_path / "second")
    carry(first, second)
    script = second / "workflow/scripts/train.py"
    script.write_text(script.read_text() + "# a remark\n")
    assert planned(second, *arguments, run=snakemake_in) == {}

    method = second / "config/methods/limber_1.yaml"
    method.write_text(method.read_text().replace("version: 1", "version: 2"))
    jobs = {"train": 2, "generate": 2, "score": 2, "table": 1, "report": 1}
    assert planned(second, *arguments, run=snakemake_in) == jobs


def test_snakemakes_own_report_needs_no_network(done: Path) -> None:
    outcome = snakemake(done, "--report", "results/snakemake.html")
    assert outcome.returncode == 0, outcome.stderr
    report = (done / "results/snakemake.html").read_text()
    assert "Tiny random models" in report
    for of_caption in ("floor of every table", "Average rank", "primary_metric"):
        assert of_caption in report
    scores = done / RUN / "test.scores.json"
    assert f"{scores.relative_to(done)}" in report


@pytest.fixture
def killed() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()


def kill_when(
    folder: Path, pattern: str, started: list[subprocess.Popen[bytes]], lines: int = 0
) -> None:
    """Start the run, kill the controller as soon as a file that fits `pattern` is there and has so
    many lines, and wait until its jobs are gone too.
    """
    process = subprocess.Popen(
        command(folder, f"{RUN}/test.texts.jsonl"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    started.append(process)
    while process.poll() is None and not any(
        lines <= path.read_bytes().count(b"\n") if lines else True for path in folder.glob(pattern)
    ):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while _jobs(folder):
        assert time.monotonic() < deadline, "a job outlives its killed controller"
        time.sleep(0.05)


def _jobs(folder: Path) -> Sequence[Path]:
    """Processes that run a script of Snakemake's in `folder`."""
    mark = f"{folder}/.snakemake/scripts/".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark in path.read_bytes():
                found.append(path)
        except OSError:  # it ended while we looked
            continue
    return found


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="jobs end with a killed controller on Linux")
def test_after_kills_in_every_long_job_the_bytes_are_the_same(
    done: Path, tmp_path: Path, killed: list[subprocess.Popen[bytes]]
) -> None:
    folder = build(tmp_path)
    kill_when(folder, f"{STORE}/vit-tiny-*/view0/.*.tmp/cls", killed)
    assert not list(folder.glob(f"{STORE}/vit-tiny-*/view0/*.zarr"))
    assert snakemake(folder, "--unlock").returncode == 0
    kill_when(folder, f"{RUN}/training/checkpoint.safetensors", killed)
    assert not (folder / RUN / "adapter.safetensors").exists()
    assert snakemake(folder, "--unlock").returncode == 0
    outcome = snakemake(folder, f"{RUN}/adapter.safetensors")
    assert outcome.returncode == 0, outcome.stderr
    assert "resumed at step" in outcome.stderr
    kill_when(folder, f"{RUN}/generation/test/partial.jsonl", killed, lines=2)
    before_the_end = not (folder / RUN / "test.texts.jsonl").exists()  # a matter of luck
    assert snakemake(folder, "--unlock").returncode == 0
    outcome = snakemake(folder, f"{RUN}/test.texts.jsonl")
    assert outcome.returncode == 0, outcome.stderr
    if before_the_end:
        assert re.search(r"[48] texts are there already", outcome.stderr)
    rows, undisturbed = (
        open_folder(next(where.glob(f"{STORE}/vit-tiny-*/view0")), {}) for where in (folder, done)
    )
    assert len(rows.media) == 24
    arrays = ["cls", "tokens/layer_11"]
    assert rows.digest(rows.media, arrays) == undisturbed.digest(rows.media, arrays)
    for name in ("adapter.safetensors", "test.texts.jsonl"):
        assert sha256_file(folder / RUN / name) == sha256_file(done / RUN / name)


def test_a_wrong_configuration_is_one_line_before_the_dag(tmp_path: Path) -> None:
    settings = yaml.safe_load(SMOKE.read_text())
    settings["grid"][0]["methods"] = ["qp_10"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    outcome = snakemake(tmp_path, "--configfile", str(tmp_path / "config.yaml"))
    assert outcome.returncode != 0
    assert "configuration: unknown method 'qp_10'; did you mean 'qp_l0'?" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_the_comparison_of_the_paper_is_planned(tmp_path: Path) -> None:
    """183 runs and 11 times blind, five seeds each; as soon as there is what nobody publishes."""
    for folder in ("data/audiocaps", "data/msrvtt", "resources/local/mavil"):
        (tmp_path / folder).mkdir(parents=True)
    jobs = planned(tmp_path, "--quiet", "rules", "--configfile", str(ROOT / "config/paper.yaml"))
    assert jobs["train"] == jobs["generate"] == jobs["score"] == 5 * (183 + 11)
    assert (jobs["table"], jobs["report"]) == (4, 1)


def test_the_profile_of_slurm_is_found_by_its_name(tmp_path: Path) -> None:
    needed = "pip install -c constraints.txt -e '.[slurm]'"
    pytest.importorskip("snakemake_executor_plugin_slurm", reason=needed)
    demo = str(ROOT / "config" / "demo.yaml")
    outcome = snakemake(tmp_path, "--profile", "slurm", "--dry-run", "--configfile", demo)
    assert outcome.returncode == 0, outcome.stderr
    assert "Using profiles slurm and" in outcome.stderr


@pytest.mark.parametrize("name", ["config", "demo"])
def test_snakemake_finds_nothing_to_lint(tmp_path: Path, name: str) -> None:
    outcome = snakemake(tmp_path, "--lint", "--configfile", str(ROOT / "config" / f"{name}.yaml"))
    assert outcome.returncode == 0, outcome.stderr
    assert "in a good condition" in outcome.stdout + outcome.stderr
