"""The page of all results: what it says, what it shows, and that it works in a browser."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from matplotlib.figure import Figure
from PIL import Image

from depalm.datasets.manifest import Sample
from depalm.evaluation.metrics import Score
from depalm.evaluation.samples import sample_file, write_predictions, write_sample_scores
from depalm.evaluation.statistics import Comparison
from depalm.evaluation.tables import build_table
from depalm.files import write_json
from depalm.media.preview import write_preview
from depalm.rejects import MediaError
from depalm.report.conclusions import conclusions
from depalm.report.gallery import build_gallery, picked
from depalm.report.page import write_report
from depalm.report.plots import order_diagram, plots_of, scale_for
from depalm.specs import TableSpec
from depalm.specs.settings import ReportPart
from tests.support.browser import opened
from tests.support.media_files import write_video
from tests.support.scores import make_run, sampled, seeds_of

SPEC = TableSpec(name="demo", title="Shapes & <colours>")
EVIL = '</td><script>document.title = "x"</script>'
COUNT = 30


def answers_of(method: str, seed: int) -> np.ndarray:
    """Percent of each sample: all have the first 5 right, nobody the next 5, about the others
    methods disagree.
    """
    right = {"blind": 0.2, "limber_1": 0.6, "qp_l0": 0.9}[method]
    draw = np.random.default_rng(seed)
    found = 100.0 * (draw.random(COUNT) < right)
    found[:5], found[5:10] = 100, 0
    return found


def save(folder: Path, method: str, seed: int, **changes: Any) -> Path:
    """A run as the workflow leaves it."""
    scores = answers_of(method, seed)
    run = make_run(method, float(scores.mean()), seed=seed, **changes)
    samples = [
        Sample(f"q{i}", f"{i}.png", f"{EVIL}what {i}?", [EVIL], "", "what", "other")
        for i in range(COUNT)
    ]
    path = folder / f"runs/{method}/seed{seed}/test.scores.json"
    path.parent.mkdir(parents=True)
    write_json(path, run)
    of = {"vqa_accuracy": Score(float(scores.mean()), scores)}
    texts = {s.id: "red" if score else EVIL for s, score in zip(samples, scores, strict=True)}
    write_predictions(path.with_name("test.predictions.jsonl"), samples, texts, of)
    write_sample_scores(sample_file(path), samples, of)
    lines = [{"step": i + 1, "loss": 3 - i / 20 + seed / 10} for i in range(40)]
    lines[19]["validation_loss"] = 2.5
    log = "".join(json.dumps(line) + "\n" for line in lines)
    path.with_name("train.jsonl").write_text(log)
    return path


def media(folder: Path, broken: Sequence[int] = ()) -> Path:
    folder.mkdir()
    for i in range(COUNT):
        Image.new("RGB", (640, 480), (8 * i, 80, 200)).save(folder / f"{i}.png")
    for i in broken:
        (folder / f"{i}.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    paths = [
        save(folder, method, seed) for method in ("blind", "limber_1", "qp_l0") for seed in range(2)
    ]
    where = {"easy-vqa": {"folder": str(media(folder / "media", [4])), "modality": "image"}}
    scores = [str(path) for path in paths]
    part = ReportPart(table=SPEC, scores=scores, missing=["a run (it failed)"])
    write_report([part], where, folder / "report.html", folder / "report")
    return folder / "report.html"


def test_the_page_says_what_was_compared_and_what_differs(report: Path) -> None:
    text = report.read_text()
    assert "Incomplete: 1 run is missing: a run (it failed)." in text
    assert "Shapes &amp; &lt;colours&gt;" in text
    assert "DePALM QP,L0 is better than" in text
    for anchor in re.findall(r'href="#([^"]+)"', text):
        assert f'id="{anchor}"' in text
    assert "torch" in text
    assert "dashed lines are validation losses" in text
    assert not re.search(r'(src|href)="(https?:|//|/)', text)  # it opens from disk alone


def test_what_comes_from_data_is_text(report: Path) -> None:
    text = report.read_text()
    assert "<script>document.title" not in text
    assert text.count("&lt;script&gt;document.title") > 30
    assert "cannot be read: not an image that Pillow knows" in text


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_in_a_browser(report: Path, width: int) -> None:
    with opened(report, width) as (tab, complaints):
        assert tab.title() == "Adapters compared"
        assert tab.locator("figure svg").count() >= 4
        # nothing is wider than the window but what scrolls by itself
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        images = tab.locator(".card img")
        for i in range(images.count()):
            images.nth(i).scroll_into_view_if_needed()
        tab.wait_for_function("[...document.images].every(image => image.naturalWidth > 0)")
        size = "parseFloat(getComputedStyle(document.querySelector('.card td')).fontSize)"
        assert tab.evaluate(size) >= 12
        assert complaints == []


def test_the_filters_of_the_gallery(report: Path) -> None:
    with opened(report) as (tab, complaints):

        def shown(kind: str, method: str = "every method") -> list[list[int]]:
            """Of each card that is there, which answers are right."""
            tab.select_option("select[name=kind]", kind)
            tab.select_option("select[name=method]", label=method)
            visible = tab.locator(".card:visible")
            told = tab.locator(".filters output").inner_text()
            cards = tab.locator(".card").count()
            assert told == f"{visible.count()} of {cards} samples"
            marks = visible.evaluate_all("cards => cards.map(card => card.dataset.right)")
            return [[int(mark) for mark in of] for of in marks]

        everything = shown("all")
        assert len(everything) == COUNT
        assert shown("right") == [of for of in everything if all(of)]
        assert len(shown("right")) >= 5
        assert shown("wrong") == [of for of in everything if not any(of)]
        assert shown("disagree") == [of for of in everything if len(set(of)) == 2]
        assert shown("right", "Blind") == [of for of in everything if of[0]]
        assert shown("wrong", "DePALM QP,L0") == [of for of in everything if not of[2]]
        assert shown("disagree", "Blind") == [of for of in everything if len(set(of)) == 2]
        assert len(shown("random")) == 24
        assert tab.locator("tr.chosen").count() == 0
        shown("all", "LiMBeR(1)")
        assert tab.locator("tr.chosen").count() == COUNT
        assert complaints == []


def test_a_report_is_made_anew_with_the_same_bytes(report: Path, tmp_path: Path) -> None:
    scores = sorted(str(path) for path in report.parent.glob("runs/*/*/test.scores.json"))
    where = {"easy-vqa": {"folder": str(report.parent / "media"), "modality": "image"}}
    part = ReportPart(table=SPEC, scores=scores)
    pages = []
    for _ in range(2):
        write_report([part], where, tmp_path / "report.html", tmp_path / "report")
        shown = sorted((tmp_path / "report").rglob("*.jpg"))
        pages.append([(tmp_path / "report.html").read_bytes(), *(p.read_bytes() for p in shown)])
    assert pages[0] == pages[1]
    assert len(pages[0]) == COUNT  # the page, and all images but the broken one
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report", "report.html"]


def test_conclusions_say_no_more_than_the_tests() -> None:
    alike = [*seeds_of("blind", 70, 71, 69), *seeds_of("limber_1", 70.5, 72, 69.5)]
    [said] = conclusions(build_table(alike, SPEC, samples=sampled))
    assert said == "easy-vqa Accuracy: none of the 2 methods can be told from another."
    runs = [*alike, *seeds_of("qp_l0", 80, 81, 79)]
    [said] = conclusions(build_table(runs, SPEC, samples=sampled))
    over = "DePALM QP,L0 is better than Blind and LiMBeR(1) (by 9.3 to 10.0 points)"
    assert said == f"easy-vqa Accuracy: {over}."
    single = [*runs[3:], make_run("blind", 99.0)]
    [said] = conclusions(build_table(single, SPEC, samples=sampled))
    assert said.endswith("Blind: not tested, for one seed is no test.")
    between = [
        *seeds_of("blind", 70, 71, 69),
        *seeds_of("limber_1", 72.4, 73.4, 71.4),
        *seeds_of("qp_l0", 75, 76, 74),
    ]
    [said] = conclusions(build_table(between, SPEC, samples=sampled))
    assert "DePALM QP,L0 is better than Blind (by 5.0 points)" in said
    assert "LiMBeR(1) and DePALM QP,L0 cannot all be told apart" in said
    [said] = conclusions(build_table(runs, SPEC))
    assert said == "Not tested, for that takes two seeds of two methods: easy-vqa Accuracy."


def test_plots_are_of_what_can_be_compared() -> None:
    runs = [
        run
        for fraction in ("100pct", "10pct")
        for method, value in (("blind", 60.0), ("qp_l0", 80.0))
        for run in seeds_of(method, value, value + 1, fraction=fraction)
    ]
    plots = plots_of(build_table(runs, SPEC, samples=sampled))
    about = [plot.about for plot in plots]
    assert len(plots) == 2 * 3 + 1 + 1
    assert sum("against trainable parameters" in text for text in about) == 2
    assert "easy-vqa: score against the part of the training samples." in about
    assert about[-1].startswith("Average score: methods in the order")
    assert all(plot.svg.startswith("<svg") for plot in plots)
    assert plots_of(build_table(seeds_of("blind", 60, 61), SPEC, samples=sampled)) == []
    single = [*seeds_of("blind", 60, 61), *seeds_of("limber_1", 50, 51), make_run("qp_l0", 80.0)]
    about = [plot.about for plot in plots_of(build_table(single, SPEC, samples=sampled))]
    assert about[-1].endswith("a hollow mark was not tested, for it has one seed.")


@pytest.mark.parametrize(
    ("costs", "marks"),
    [
        ([509.0, 642.0, 742.0], ["550", "600", "650", "700"]),
        ([4608.0, 221_760.0, 1_040_768.0], ["10 k", "30 k", "100 k", "300 k", "1 M"]),
        ([0.0, 1_040_768.0], ["0", "1", "10", "100", "1 k", "10 k", "100 k", "1 M"]),
        ([0.0, 0.5], ["0.1", "0.2", "0.3", "0.4"]),
    ],
)
def test_a_cost_can_be_read_from_its_axis(costs: list[float], marks: list[str]) -> None:
    """Seconds could not be: a logarithm has no mark between 509 and 742."""
    axes = Figure().subplots()
    axes.plot(costs, costs, "o")
    scale_for(axes, costs)
    left, right = axes.get_xlim()
    assert left < min(costs) <= max(costs) < right
    axes.figure.draw_without_rendering()
    seen = [label.get_text() for label in axes.get_xticklabels()]
    assert set(marks) <= set(seen)


def test_the_gallery_has_some_of_each_kind_and_a_random_part() -> None:
    right = {f"{i}": [i < 300, i < 600] for i in range(900)}
    drawn = {f"{i}" for i in range(0, 900, 40)}
    keys = picked(right, drawn)
    assert drawn <= set(keys)
    assert len(keys) == len(set(keys))
    counts = [sum(sum(right[key]) == n for key in keys) for n in (0, 1, 2)]
    assert min(counts) >= 24
    assert len(keys) <= len(drawn) + 3 * 24
    assert picked(dict(reversed(right.items())), drawn) == keys


def test_a_gallery_is_of_one_seed_and_the_largest_fraction(tmp_path: Path) -> None:
    runs = {}
    for method, seed, fraction in (
        ("blind", 0, "100pct"),
        ("blind", 1, "100pct"),
        ("qp_l0", 1, "100pct"),
        ("qp_l0", 0, "10pct"),
    ):
        path = save(tmp_path / fraction, method, seed, fraction=fraction)
        runs[str(path)] = make_run(method, 1.0, seed=seed, fraction=fraction)
    gallery = build_gallery(runs, media(tmp_path / "media"), "image", tmp_path / "out/0", "out")
    assert gallery is not None
    assert gallery.about == "test, trained on 100%, seed 1"
    assert gallery.labels == ["Blind", "DePALM QP,L0"]
    card = gallery.cards[0]
    assert (tmp_path / card.files[0]).is_file()
    assert card.files[0].startswith("out/0/")


def test_answers_that_no_metric_could_score_are_shown(tmp_path: Path) -> None:
    path = save(tmp_path, "blind", 0)
    rows = [json.loads(line) for line in read_lines(path, "test.predictions.jsonl")]
    text = "".join(json.dumps({**row, "score": None}) + "\n" for row in rows)
    path.with_name("test.predictions.jsonl").write_text(text)
    where = {"easy-vqa": {"folder": str(media(tmp_path / "media")), "modality": "image"}}
    part = ReportPart(table=SPEC, scores=[str(path)])
    write_report([part], where, tmp_path / "report.html", tmp_path / "report")
    assert (tmp_path / "report.html").read_text().count("<td>–</td>") == 24  # cards


def read_lines(scores: Path, name: str) -> list[str]:
    return scores.with_name(name).read_text().splitlines()


def test_previews_of_images_videos_and_sounds(tmp_path: Path) -> None:
    Image.new("RGB", (800, 400)).save(tmp_path / "a.png")
    [path] = write_preview(tmp_path / "a.png", "image", tmp_path / "out" / "0")
    assert Image.open(path).size == (360, 180)
    soundfile.write(tmp_path / "a.wav", np.zeros((44100 * 12, 2)), 44100)
    [path] = write_preview(tmp_path / "a.wav", "audio", tmp_path / "out" / "1")
    assert soundfile.info(path).duration == 10.0
    clip = write_video(tmp_path / "a.mp4", [i / 8 for i in range(16)])
    frames = write_preview(clip, "video", tmp_path / "out" / "2")
    assert [frame.name for frame in frames] == ["2-0.jpg", "2-1.jpg", "2-2.jpg", "2-3.jpg"]
    (tmp_path / "b.png").write_bytes(b"x")
    with pytest.raises(MediaError):
        write_preview(tmp_path / "b.png", "image", tmp_path / "out" / "3")


def test_a_method_between_others_is_not_drawn_as_one_of_them() -> None:
    """The first is better than the second, and neither can be told from the third: the group of the
    first and the third passes over the second.
    """
    better = np.zeros((3, 3), dtype=bool)
    better[0, 1] = True
    none = np.zeros((3, 3))
    comparison = Comparison(
        **{"difference": none, "low": none, "high": none, "p": none, "better": better},
        **{"intervals": np.zeros((3, 2)), "one_seed": none, "lasting": none},
    )
    plot = order_diagram(["A", "B", "C"], "Accuracy", comparison, np.array([3.0, 2.0, 1.0]))
    assert plot is not None
    assert sorted(comparison.letters) == ["a", "ab", "b"]
    assert plot.svg.count("stroke-width: 3") == 4  # two groups of two
    assert plot.svg.count("stroke-width: 0.8;") >= 2  # a line for each
