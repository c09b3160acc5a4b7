"""Files of datasets, as `depalm add dataset` writes them from tables of several shapes."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from depalm.adding import AddError, Part, add_dataset
from depalm.cli import main
from depalm.config.schema import check_schema
from depalm.datasets.readers import READERS


def photos(folder: Path, count: int = 10) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number}.jpg").write_bytes(b"jpeg")


def added(target: Path, **options: Any) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The file's content, and the samples of each split as the reader gives them."""
    path, _ = add_dataset(target, Path("config"), Path("data"), **options)
    content = yaml.safe_load(path.read_text())
    check_schema(content, "dataset", path.name)
    read = READERS["generic"].read
    return content, {split: list(read(Path(content["root"]), split)) for split in content["splits"]}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_captions_in_a_csv_beside_a_folder_of_images() -> None:
    photos(Path("album/Images"))
    rows = "".join(f"{n}.jpg,caption {n}\n{n}.jpg,another of {n}\n" for n in range(10))
    Path("album/captions.txt").write_text("image,caption\n" + rows)
    content, samples = added(Path("album"))
    assert (content["modality"], content["media_root"]) == ("image", "album/Images")
    assert content["metrics"][0] == "cider"
    everything = [*samples["train"], *samples["test"]]
    assert len(samples["test"]) < len(samples["train"])
    assert sorted(one.media for one in everything) == sorted(f"{n}.jpg" for n in range(10))
    assert all(
        one.references == [f"caption {one.media[0]}", f"another of {one.media[0]}"]
        for one in everything
    )
    assert content["size"] == {s: {"samples": len(v), "media": len(v)} for s, v in samples.items()}


def test_questions_with_splits_in_json_lines() -> None:
    photos(Path("photos"))
    rows = [
        {"split": "training", "image": "1.jpg", "question": "red?", "answers": ["yes", "no"]},
        {"split": "training", "image": "1.jpg", "question": "blue?", "answers": ["no"]},
        {"split": "validation", "image": "2.jpg", "question": "red?", "answers": ["yes"]},
    ]
    Path("photos/qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content, samples = added(Path("photos/qa.jsonl"), name="mine")
    assert (content["splits"], content["test_split"]) == (["train", "val"], "val")
    assert [(one.question, one.references) for one in samples["train"]] == [
        ("red?", ["yes", "no"]),
        ("blue?", ["no"]),
    ]
    assert content["templates"] == {"texts": ["{question}\n\nAnswer:\n"]}
    assert content["root"] == "data/mine"


def test_sounds_in_parquet() -> None:
    Path("sounds").mkdir()
    for number in range(6):
        Path(f"sounds/{number}.wav").write_bytes(b"RIFF")
    names = [f"{number}.wav" for number in range(6)]
    split = ["train"] * 4 + ["test"] * 2
    table = pa.table({"audio": names, "caption": ["a bird"] * 6, "split": split})
    pq.write_table(table, "sounds/captions.parquet")
    content, samples = added(Path("sounds"))
    assert content["modality"] == "audio"
    assert [len(samples[split]) for split in ("train", "test")] == [4, 2]
    assert content["templates"]["texts"] == ["Describe the sound briefly:\n"]


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ("picture,caption\n1.jpg,x\n", "none of which is that of the media: call it one of media,"),
        ("image,words\n1.jpg,x\n", "none of which is that of the answers or captions"),
        ("image,caption\n", "has no rows"),
        ("image,caption\n1.jpg,\n", "caption is empty in every row"),
        ("image,caption,split\ntable.csv,x,test\n", r"\.csv are no images, sounds or videos"),
        ("image,caption\nz.jpg,x\n", r"none of z\.jpg, \.\.\. is in photos or a folder there"),
        ("image,caption,split\n1.jpg,x,a\n", "has the values a: splits are train, val and test"),
        ("image,caption\n1.jpg,x,y\n", "cannot be read: .*3 fields, but the header has 2"),
    ],
)
def test_what_is_missing_is_named(table: str, why: str) -> None:
    photos(Path("photos"))
    Path("photos/table.csv").write_text(table)
    with pytest.raises(AddError, match=why):
        add_dataset(Path("photos"), Path("config"), Path("data"))
    assert not Path("config").exists()
    assert not Path("data").exists()


def test_nothing_is_written_over(capsys: pytest.CaptureFixture[str]) -> None:
    photos(Path("photos"))
    rows = "".join(f"{n}.jpg,caption {n}\n" for n in range(10))
    Path("photos/table.csv").write_text("image,caption\n" + rows)
    main(["add", "dataset", "photos"])
    shown = capsys.readouterr().out
    assert "written: config/datasets/photos.yaml" in shown
    assert shown.count('{"media": ') == 3
    with pytest.raises(SystemExit):
        main(["add", "dataset", "photos"])
    assert "is there already" in capsys.readouterr().err
    main(["add", "dataset", "photos", "--force"])


def test_comments_stay_on_their_line_and_words_stay_words() -> None:
    about, entries = (
        ["a\nname: evil"],
        [("modality", "none", "with\na break"), ("loader", "disabled", "")],
    )
    shape = ("shape", {"layers": 1, "tokens": 1, "width": 1}, "")
    text = Part("backbone", "x", about, [*entries, shape]).text()
    assert yaml.safe_load(text) == {
        **{"version": 1, "modality": "none", "loader": "disabled"},
        "shape": {"layers": 1, "tokens": 1, "width": 1},
    }
    for value in ("yes", "null", "1e3", "a: b", "x\ny", "#", "ünï", "", "plain-word.v2"):
        source = ("source", {"uri": f"file://{value}"}, "")
        written = [*entries, source, ("model", value, ""), shape]
        assert yaml.safe_load(Part("backbone", "x", [], written).text())["model"] == value
