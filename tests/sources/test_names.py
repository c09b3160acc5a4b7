"""What is fetched, unpacked or converted writes into its own folder alone."""

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from depalm.errors import AnnotationError
from depalm.files import write_json
from depalm.llms.base import LLMError
from depalm.llms.load import load_llm
from depalm.sources.archives import ArchiveError, unpack
from depalm.sources.conversion import ConvertError
from depalm.sources.convert import convert
from depalm.sources.fetch import fetch
from depalm.sources.kept import SourceError
from tests.support.specs import llm_spec, sources

LEAVING = ["../../../evil", "a/../../evil", "..\\evil", "/abs/evil"]


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


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
