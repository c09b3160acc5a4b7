"""Media that annotations name lie in their folder, or the row is rejected."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from depalm.datasets.captions import names_clip
from depalm.datasets.manifest import (
    build_manifest,
    unique_media,
)
from depalm.datasets.readers import READERS
from depalm.rejects import RejectError
from tests.support.media_files import write_images
from tests.support.specs import rows_spec


def lines(root: Path, *media: str) -> None:
    rows = [{"media": name, "references": ["x"]} for name in media]
    (root / "manifest.train.jsonl").write_text("\n".join(map(json.dumps, rows)))


def samples(root: Path, tolerated: float = 1.0, **more: Any) -> tuple[list[str], list[str]]:
    """Media and reasons of the rejects."""
    dataset = {"reader": "generic", "splits": ["train"], "templates": {"texts": [""]}, **more}
    found, rejects, _ = build_manifest(
        root, rows_spec(dataset), "train", max_reject_fraction=tolerated
    )
    return unique_media(found), [reject.reason for reject in rejects]


def test_a_row_whose_media_leave_the_root_is_rejected(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_images(tmp_path, ["outside.png", "root/a.png"])
    (root / "link.png").symlink_to(tmp_path / "outside.png")  # by the user
    absolute = str(root / "a.png")
    lines(root, "a.png", "link.png", "../outside.png", absolute, "x" * 300, "a\0.png", "")
    media, reasons = samples(root)
    assert media == ["a.png", "link.png"]
    assert reasons == [
        "its media path leaves its folder by '..'",
        "its media path is an absolute path, or has a drive",
        "its media path has a part of more than 255 bytes",
        "its media path holds a NUL",
        "its media path is empty",
    ]
    with pytest.raises(RejectError, match=r"1 x its media path leaves its folder"):
        samples(root, tolerated=0.0)


def test_media_root_says_that_the_media_lie_elsewhere(tmp_path: Path) -> None:
    root, photos = tmp_path / "root", tmp_path / "photos"
    write_images(tmp_path, ["photos/a.png", "photos/b.png", "root/c.png", "outside.png"])
    lines(root, "a.png", str(photos / "b.png"), "c.png", "../outside.png", f"{photos}/../x.png")
    media, reasons = samples(root, media_root=str(photos))
    assert media == ["a.png", "b.png"]
    assert reasons == [
        "no such media file",
        "its media path leaves its folder by '..'",
        "its media path leaves its folder by '..'",
    ]
    lines(root, str(tmp_path / "outside.png"), str(photos))
    media, reasons = samples(root, media_root=f"{tmp_path}/")
    assert media == ["outside.png"]
    assert reasons == ["no such media file"]


ROWS = {
    "textvqa": (
        "TextVQA_0.5.1_train.json",
        {"data": [{"question_id": 1, "image_id": "../../o", "question": "q", "answers": ["x"]}]},
    ),
    "textcaps": (
        "TextCaps_0.1_train.json",
        {"data": [{"image_id": "../../o", "caption_str": "x"}]},
    ),
    "msrvtt": (
        "train_val_videodatainfo.json",
        {
            "videos": [{"video_id": "../../../o"}],
            "sentences": [{"video_id": "../../../o", "caption": "x"}],
        },
    ),
    "audiocaps": (
        "train.csv",
        "audiocap_id,youtube_id,start_time,caption\n1,../../o,0,x\n",
    ),
}


@pytest.mark.parametrize("reader", ROWS)
def test_no_reader_leads_out_of_the_root(tmp_path: Path, reader: str) -> None:
    name, content = ROWS[reader]
    root = tmp_path / "root"
    root.mkdir()
    (root / "train_images").mkdir()
    (root / name).write_text(content if isinstance(content, str) else json.dumps(content))
    [row] = READERS[reader].read(root, "train")
    for folder in ("train", "videos/all"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / row.media).resolve().write_bytes(b"x")
    assert (root / row.media).is_file()
    assert root not in (root / row.media).resolve().parents
    dataset = {"reader": reader, "splits": ["train"], "templates": {"texts": [""]}}
    with pytest.raises(RejectError, match="leaves its folder"):
        build_manifest(root, rows_spec(dataset), "train")


@pytest.mark.parametrize(
    ("named", "there"),
    [
        ("\u00e9t\u00e9.png", "e\u0301te\u0301.png"),
        ("e\u0301te\u0301.png", "\u00e9t\u00e9.png"),
        ("a.jpg", "a.JPG"),
        ("a.jpg", "a.jpeg"),
        ("a.jpeg", "a.jpg"),
        ("A/a.png", "A/a.PNG"),
        ("A\\a.png", "A/a.png"),
    ],
)
def test_a_file_whose_name_is_written_otherwise_is_found(
    tmp_path: Path, named: str, there: str
) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "image.png")
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / "image.png").rename(tmp_path / there)
    lines(tmp_path, named)
    assert samples(tmp_path) == ([there], [])


def test_what_only_begins_or_ends_alike_is_another_file(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.temp.png", "a.png.png", "aa.png", "A.png"])
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    lines(tmp_path, "a.png", "a.jpg", "A.png")
    assert samples(tmp_path) == (["A.png"], ["no such media file"] * 2)


def test_images_of_textvqa_may_lie_where_the_archive_has_them(tmp_path: Path) -> None:
    (tmp_path / "train_val_images").mkdir()
    write_images(tmp_path / "train_val_images", ["train_images/1.png"])
    (tmp_path / "train_val_images/train_images/1.png").rename(
        tmp_path / "train_val_images/train_images/1.jpg"
    )
    row = {"question_id": 1, "image_id": "1", "question": "?", "answers": ["x"]}
    (tmp_path / "TextVQA_0.5.1_train.json").write_text(json.dumps({"data": [row]}))
    found = ["train_val_images/train_images/1.jpg"], []
    assert samples(tmp_path, reader="textvqa") == found


@pytest.mark.parametrize(
    ("name", "is_it"),
    [
        ("-abcdefghi0", True),
        ("Y-abcdefghi0", True),
        ("-abcdefghi0_30", True),
        ("Y-abcdefghi0_30", True),
        ("-abcdefghi0-30", True),
        ("-abcdefghi0_30.000", True),
        ("-abcdefghi0_30_40", True),
        ("-abcdefghi0_30.000_40.000", True),
        ("-abcdefghi0_30000_40000", True),
        ("-abcdefghi0_000030", True),
        ("-abcdefghi0_60", False),
        ("-abcdefghi0_60_30", False),
        ("-abcdefghi0_300", False),
        ("-abcdefghi0.temp", False),
        ("-abcdefghi0_30.temp", False),
        ("-abcdefghi0_30.part", False),
        ("-abcdefghi0.f140", False),
        ("-abcdefghi01", False),
        ("YY-abcdefghi0", False),
        ("x-abcdefghi0", False),
    ],
)
def test_names_of_audiocaps_clips(name: str, is_it: bool) -> None:
    assert names_clip(name, "-abcdefghi0", "30") == is_it


def test_a_clip_of_audiocaps_is_never_that_of_another_start(tmp_path: Path) -> None:
    rows = "audiocap_id,youtube_id,start_time,caption\n1,Yabcdefghij,30,x\n2,Yabcdefghij,60,y\n"
    (tmp_path / "train.csv").write_text(rows)
    (tmp_path / "val").mkdir()
    for name in ("YYabcdefghij_60.wav", "Yabcdefghij_30.temp.wav", "Yabcdefghij_60.wav.part"):
        (tmp_path / "val" / name).write_bytes(b"x")
    assert samples(tmp_path, reader="audiocaps") == (
        ["val/YYabcdefghij_60.wav"],
        ["no such media file"],
    )
