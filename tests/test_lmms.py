"""depalm as a model of lmms-eval: a task on local data, answered by a trained adapter."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
import yaml
from PIL import Image

from depalm import load_adapter
from depalm.datasets.manifest import write_manifest
from depalm.lmms import LmmsError, LmmsModel, _device, _file
from depalm.media.image import load_image
from depalm.predictor import Predictor
from depalm.rejects import RejectError
from tests.support.runs import SAMPLES, SETTINGS, train, write_files
from tests.support.tiny import METHODS

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (20, 40, 230)}
QUESTIONS = ["what ?", "a b what ?"]
UTILS = """
def to_visual(doc):
    return [doc["image"].convert("RGB")]

def to_score(doc, results):
    return {"right": float(results[0].strip() == doc["answer"])}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = write_files(tmp_path_factory.mktemp("files"))
    settings = SETTINGS.model_copy(update={"steps": 20, "lr": 2e-2})
    return train(files, tmp_path_factory.mktemp("trained"), settings=settings)


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = write_files(tmp_path_factory.mktemp("files"))
    samples = [replace(sample, references=["a b a b what"]) for sample in SAMPLES]
    write_manifest(files / "manifest.parquet", samples)
    settings = SETTINGS.model_copy(update={"steps": 30, "lr": 2e-2})
    return train(files, tmp_path_factory.mktemp("talkative"), settings=settings)


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = write_files(tmp_path_factory.mktemp("files"))
    return train(files, tmp_path_factory.mktemp("blind"), {**METHODS["blind"], "version": 1})


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Predictor:
    return load_adapter(trained, "cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        pixels = noise.integers(0, 40, (48, 64, 3)) + np.array(colour) // 2
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in COLOURS}


def request(question: str, media: list[Any], document: int = 0, **settings: Any) -> SimpleNamespace:
    """As lmms-eval makes it: a task hands over its document, and how to see it."""
    return SimpleNamespace(args=(question, settings, lambda _: media, document, "task", "test"))


def model(adapter: Path, **arguments: Any) -> LmmsModel:
    made = LmmsModel(str(adapter), device="cpu", **arguments)
    made.task_dict = {"task": {"test": list(range(10))}}
    return made


def test_lmms_eval_scores_what_the_adapter_answers(
    trained: Path, predictor: Predictor, photos: dict[str, Path], tmp_path: Path
) -> None:
    """As it is typed, on a task of one's own."""
    pairs = [(name, question) for name in photos for question in QUESTIONS]
    expected = [predictor.answer(photos[name], question) for name, question in pairs]
    assert len(set(expected)) > 1  # else any answer would do
    answers = [text.strip() for text in expected]
    answers[0] += " not"
    columns = {
        "image": [str(photos[name]) for name, _ in pairs],
        "question": [question for _, question in pairs],
        "answer": answers,
    }
    table = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    table.to_parquet(tmp_path / "test.parquet")
    (tmp_path / "utils.py").write_text(UTILS)
    task = {
        "task": "colours",
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "test.parquet")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"num_beams": 3, "max_new_tokens": 50, "until": []},
        "metric_list": [{"metric": "right", "aggregation": "mean", "higher_is_better": True}],
    }
    functions = {"doc_to_visual": "utils.to_visual", "process_results": "utils.to_score"}
    lines = [f"{key}: !function {name}\n" for key, name in functions.items()]
    (tmp_path / "colours.yaml").write_text(yaml.safe_dump(task) + "".join(lines))
    program = [sys.executable, "-m", "lmms_eval", "--model", "depalm", "--tasks", "colours"]
    arguments = ["--model_args", f"adapter={trained}", "--device", "cpu", "--log_samples"]
    places = ["--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")]
    home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*program, *arguments, *places],
        env={**os.environ, **home},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (samples,) = (tmp_path / "out").rglob("*_samples_colours.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert {row["doc_id"]: row["filtered_resps"] for row in rows} == dict(enumerate(expected))
    (results,) = (tmp_path / "out").rglob("*_results.json")
    assert json.loads(results.read_text())["results"]["colours"]["right,none"] == 5 / 6


def test_a_task_decides_how_texts_are_searched_and_end(
    talkative: Path, photos: dict[str, Path]
) -> None:
    asked = model(talkative)
    red = load_image(photos["red"])
    long = asked.generate_until([request("what ?", [red], num_beams=1, max_new_tokens=6)])
    wanted = asked.predictor.decoding.model_copy(update={"beams": 1, "max_new_tokens": 6})
    (expected,) = asked.predictor.answer_pairs([(photos["red"], "what ?")], wanted)
    assert long == [expected.prediction]
    words = long[0].split()
    requests = [
        request("what ?", [red], num_beams=1, max_new_tokens=6, until=words[1]),
        request("what ?", [red], num_beams=1, max_new_tokens=1, until=[]),
        request("what ?", [red], num_beams=1, max_new_tokens=6, until=["<none>", ""]),
    ]
    cut, short, whole = asked.generate_until(requests)
    assert cut == long[0].split(words[1])[0]
    assert cut.split() == words[: words.index(words[1])]
    assert (short.split(), whole) == (words[:1], long[0])
    decided = model(talkative, max_new_tokens=2, batch_size="3")
    settings = decided.predictor.decoding
    assert (settings.batch_size, settings.max_new_tokens) == (3, 2)
    (said,) = decided.generate_until([request("what ?", [red], num_beams=1, max_new_tokens=6)])
    assert said.split() == words[:2]


def test_pictures_and_sounds_are_handed_over_without_loss(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 9, 4)).astype(np.uint8)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"):
        picture = Image.fromarray(noise, "RGBA").convert("RGB").convert(mode)
        again = Image.open(_file(picture, tmp_path))
        assert np.array_equal(np.asarray(again.convert("RGB")), np.asarray(picture.convert("RGB")))
    colours = Image.fromarray(noise, "RGBA")
    assert _file(colours, tmp_path) == _file(colours.copy(), tmp_path)
    sound = np.random.default_rng(0).standard_normal((2, 100)).astype(np.float32) * 3
    for array, expected in ((sound[0], sound[:1]), (sound, sound)):
        path = _file({"array": array, "sampling_rate": 22050}, tmp_path)
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        assert rate == 22050
        assert np.array_equal(samples.T, expected)
    assert _file("a/video.mp4", tmp_path) == Path("a/video.mp4")


def test_what_cannot_be_read_is_tolerated_as_far_as_one_says(
    trained: Path, photos: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no photo")
    requests = [request("what ?", [str(photos["red"])]), request("what ?", [str(bad)], 1)]
    with pytest.raises(RejectError, match=r"1 of 2 rejected .*: task/test/1"):
        model(trained).generate_until(requests)
    said = model(trained, max_reject_fraction=0.5).generate_until(requests)
    assert said[0]
    assert said[1] == ""
    assert "task/test/1" in caplog.text


def test_an_adapter_that_reads_nothing_is_asked_without_media(blind: Path) -> None:
    requests = [request("what ?", []), request("what ?", [Image.new("RGB", (9, 9))])]
    (said, same) = model(blind).generate_until(requests)
    assert said == same


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([request("?", [])], "task task shows 0 media with question 0;"),
        ([request("?", ["a.png", "b.png"], 3)], "2 media with question 3;"),
        ([request("?", ["a.png"], temperature=0.7)], "task samples"),
        ([request("?", ["a.png"], do_sample=True)], "task samples"),
    ],
)
def test_tasks_that_an_adapter_cannot_do_are_refused(
    trained: Path, requests: list[Any], message: str
) -> None:
    with pytest.raises(LmmsError, match=message):
        model(trained).generate_until(requests)


def test_likelihoods_and_rounds_are_refused(trained: Path) -> None:
    asked = model(trained)
    with pytest.raises(LmmsError, match="generate_until"):
        asked.loglikelihood([])
    with pytest.raises(LmmsError, match="several rounds"):
        asked.generate_until_multi_round([])


def test_processes_side_by_side_have_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [_device(name) for name in ("cuda", "cuda:1", "cpu")] == ["cuda:3", "cuda:1", "cpu"]
    monkeypatch.delenv("LOCAL_RANK")
    assert _device("cuda") == "cuda"
