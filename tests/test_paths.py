"""Names that come from data: each place that makes a path of one refuses what leaves its folder."""

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from depalm.datasets.manifest import (
    Sample,
    build_manifest,
    read_manifest,
    unique_media,
    write_manifest,
)
from depalm.datasets.readers import READERS
from depalm.errors import AnnotationError
from depalm.features.extract import Extraction, extract
from depalm.features.online import Media, OnlineFeatures
from depalm.files import OutsideError, inside, write_json
from depalm.llms.base import LLMError
from depalm.llms.load import load_llm
from depalm.rejects import RejectError
from depalm.sources.archives import ArchiveError, unpack
from depalm.sources.conversion import ConvertError
from depalm.sources.convert import convert
from depalm.sources.fetch import SourceError, fetch
from tests.support.media_files import write_images
from tests.support.specs import llm_spec, rows_spec, sources
from tests.support.vit import VIT, tiny_vit

NAMES = {  # what is refused -> why
    "": "is empty",
    ".": "is empty",
    "./": "is empty",
    "/abs/x": "is an absolute path",
    "//host/x": "is an absolute path",
    "../x": "leaves its folder",
    "a/../../x": "leaves its folder",
    "a/..": "leaves its folder",
    "..\\x": "leaves its folder",
    "a\\..\\..\\x": "leaves its folder",
    "\\x": "is an absolute path",
    "\\\\host\\share\\x": "is an absolute path",
    "C:\\x": "has a drive",
    "C:x": "has a drive",
    "a\0b": "holds a NUL",
    "a/\ud800": "is not Unicode",
    "é" * 128: "more than 255 bytes",
    "abcdefg/" * 520 + "x": "more than 4095 bytes",
}
LEAVING = ["../../../evil", "a/../../evil", "..\\evil", "/abs/evil"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leaves_or_cannot_be_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(OutsideError) as error:
        inside("/folder", name)
    assert NAMES[name] in error.value.reason
    assert str(error.value).endswith(error.value.reason)
    assert len(str(error.value)) < 400


def test_any_other_name_is_a_path_in_its_folder() -> None:
    for name in ("a", "./a/b.jpg", "..a/b..", "a b", "é" * 127, "x\ny", "a\\b", "abc:d", "-r"):
        assert inside("/folder", name) == Path("/folder", name)
    with pytest.raises(OutsideError, match="is no text"):
        inside("/folder", None)  # type: ignore[arg-type]


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------- written


@pytest.mark.parametrize(
    "row",
    [*({"image_id": name} for name in [*LEAVING, "", "x" * 300]), {"set_name": "../../evil"}],
)
def test_textvqa_as_parquet_writes_into_its_folder(tmp_path: Path, row: dict[str, Any]) -> None:
    download = tmp_path / "download"
    download.mkdir()
    write_json(download / "source.json", {})
    good = {"question_id": 1, "image_id": "a", "question": "q", "answers": ["x"]}
    good |= {"set_name": "train", "image": {"bytes": b"x", "path": "a.jpg"}}
    pq.write_table(pa.Table.from_pylist([good | row]), download / "1.parquet")
    before = everything_in(tmp_path)
    with pytest.raises(AnnotationError, match=r"1\.parquet is not TextVQA") as error:
        convert(download, tmp_path / "deep/in/output", "textvqa_parquet")
    assert repr(next(iter(row.values())))[:100] in str(error.value)
    assert everything_in(tmp_path) == before
    assert not Path("/abs").exists()


def tar_with(path: Path, *members: tuple[str, bytes, str]) -> Path:
    """Members: name, type, and what a file holds or where a link leads."""
    with tarfile.open(path, "w") as archive:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "" if kind == tarfile.REGTYPE else content
            data = content.encode() if kind == tarfile.REGTYPE else b""
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


FILE, LINK, HARD, FOLDER = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE


@pytest.mark.parametrize("name", [*LEAVING, "C:\\evil"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_with_such_a_name_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    archive = tmp_path / "archive"
    if kind == "tar":
        tar_with(archive, (name, FILE, "x"))
    else:
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr(name, "x")
    (tmp_path / "deep/in/it").mkdir(parents=True)
    with pytest.raises(ArchiveError, match="unsafe path"):
        unpack(archive, tmp_path / "deep/in/it")
    assert everything_in(tmp_path) == ["archive"]


@pytest.mark.parametrize(
    "members",
    [
        [("a", LINK, "/etc/passwd")],
        [("a", LINK, "../x")],
        [("deep/a", LINK, "../../x")],
        [("a", HARD, "../archive")],
        [("a", HARD, "/etc/passwd")],
        [("a", LINK, "."), ("a/x", FILE, "x")],
        # links that each stay inside, but lead out together
        [("a/b/c/l", LINK, "."), ("x", LINK, "a/b/c/l/l/l/l/../../../../../x")],
        [("a/b/l", LINK, "."), ("a/b/l/l/l/x", LINK, "../../../../../x")],
    ],
)
def test_links_that_lead_out_of_an_archive_are_refused(
    tmp_path: Path, members: list[tuple[str, bytes, str]]
) -> None:
    archive = tar_with(tmp_path / "archive", *members)
    (tmp_path / "out").mkdir()
    with pytest.raises(ArchiveError, match="unsafe path"):
        unpack(archive, tmp_path / "out")
    assert everything_in(tmp_path) == ["archive"]


def test_links_within_an_archive_and_its_own_folder_are_kept(tmp_path: Path) -> None:
    members = [
        (".", FOLDER, ""),
        ("./images/1.jpg", FILE, "one"),
        ("subset/train/1.jpg", LINK, "../../images/1.jpg"),
        ("subset/2.jpg", HARD, "./images/1.jpg"),
    ]
    archive = tar_with(tmp_path / "a.tar", *members)
    source = {"uri": f"file://{archive}", "unpack": True}
    fetch(sources(source), tmp_path / "part", tmp_path / "downloads")
    for name in ("images/1.jpg", "subset/train/1.jpg", "subset/2.jpg"):
        assert (tmp_path / "part" / name).read_text() == "one"


@pytest.mark.parametrize("name", ["..", "..%2F..", "%2e%2e", "..%5Cevil", "a%00b", "x" * 300])
def test_the_last_part_of_a_url_is_a_name(tmp_path: Path, name: str) -> None:
    uri = f"http://127.0.0.1:9/folder/{name}"
    with pytest.raises(SourceError, match="unsafe path"):
        fetch(sources({"uri": uri}), tmp_path / "part", tmp_path / "downloads")
    assert not (tmp_path / "part").exists()


@pytest.mark.parametrize("bad", ["../../evil.parquet", "/abs/evil.parquet", "..\\evil.parquet"])
def test_files_that_a_hub_lists_lie_in_the_download(
    tmp_path: Path, bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = {"revision": "c" * 40, "files": {bad: "0" * 64}, "weights": [bad]}
    monkeypatch.setattr("depalm.sources.fetch.list_hub_dataset", lambda *_: listing)
    monkeypatch.setattr(
        "depalm.sources.fetch.download_hub_file", lambda *_: pytest.fail("asked for it")
    )
    with pytest.raises(SourceError, match="unsafe path"):
        fetch(sources({"uri": "hf://datasets/x/y"}), tmp_path / "part", tmp_path / "downloads")
    assert not list(tmp_path.rglob("listing.json"))  # the next run asks again


# ---------------------------------------------------------------- read


@pytest.mark.parametrize("name", ["../outside.safetensors", "/abs/x.safetensors"])
def test_an_index_names_weights_beside_it(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "outside.safetensors").write_bytes(b"x")
    write_json(folder / "config.json", {"model_type": "llama"})
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"a": name}})
    spec = {"family": "llama", "shape": {"layers": 1, "width": 1}}
    with pytest.raises(LLMError, match=r"index\.json names weights that are refused"):
        load_llm(llm_spec(spec), folder, "float32", "cpu")
    (folder / "model.safetensors.index.json").rename(folder / "pytorch_model.bin.index.json")
    write_json(folder / "source.json", {})
    with pytest.raises(ConvertError, match=r"index\.json names weights that are refused"):
        convert(folder, tmp_path / "converted", "pytorch")


def lines(root: Path, *media: str) -> None:
    rows = [{"media": name, "references": ["x"]} for name in media]
    (root / "manifest.train.jsonl").write_text("\n".join(map(json.dumps, rows)))


def samples(root: Path, tolerated: float = 1.0, **more: Any) -> tuple[list[str], list[str]]:
    """Media and reasons of the rejects."""
    dataset = {"reader": "generic", "splits": ["train"], "templates": {"texts": [""]}, **more}
    found, rejects = build_manifest(
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


def test_extraction_and_online_features_read_below_their_root(tmp_path: Path) -> None:
    tiny_vit(tmp_path / "weights")
    write_images(tmp_path, ["outside.png", "root/a.png"])
    write_manifest(tmp_path / "m.parquet", [Sample("1", "../outside.png", "", ["x"])])
    media, root = unique_media(read_manifest(tmp_path / "m.parquet")), tmp_path / "root"
    shard = tmp_path / "shard.zarr"
    with pytest.raises(OutsideError, match=r"'\.\./outside\.png' leaves its folder"):
        extract(VIT, tmp_path / "weights", root, media, [11], shard, Extraction(), "cpu")
    assert not shard.exists()
    features = OnlineFeatures(None, None, None, Media(root), "cpu", None)  # type: ignore[arg-type]
    with pytest.raises(OutsideError, match=r"'\.\./outside\.png' leaves its folder"):
        features._files(media, None)
