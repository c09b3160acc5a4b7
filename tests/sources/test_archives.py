"""Archives as sources: unpacked whole, once, or refused."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from depalm.files import read_checked, sha256_file
from depalm.sources.kept import SourceError

FILES = {"train/1.jpg": b"one" * 1000, "train/deep/2.jpg": b"two", "labels.json": b"{}"}


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path, files):
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "source.json"
    }


@pytest.mark.parametrize(
    ("name", "write"), [("a.zip", write_zip), ("a.tar", write_tar), ("a.tar.gz", write_tar)]
)
def test_an_archive_gives_its_contents(tmp_path, get, name, write):
    archive = write(tmp_path / name, FILES)
    uri = f"file://{archive}"
    part = get(uri, sha256_file(archive), unpack=True)
    assert contents(part) == FILES
    record = {"uri": uri, "sha256": sha256_file(archive), "revision": None}
    assert read_checked(part / "source.json") == record


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_what_macos_adds_is_left_out(tmp_path, get, write):
    more = {"__MACOSX/train/._1.jpg": b"x", "train/.DS_Store": b"x", "train/._1.jpg": b"x"}
    archive = write(tmp_path / "a.archive", FILES | more)
    assert contents(get(f"file://{archive}", unpack=True)) == FILES


def test_a_local_archive_that_changes_is_unpacked_again(tmp_path, get):
    archive = write_zip(tmp_path / "a.zip", FILES)
    get(f"file://{archive}", unpack=True)
    write_zip(archive, {"labels.json": b"[]"})
    assert contents(get(f"file://{archive}", unpack=True)) == {"labels.json": b"[]"}


def test_several_sources_lie_together(tmp_path, get):
    write_zip(tmp_path / "a.zip", FILES)
    (tmp_path / "captions.json").write_text("[]")
    uris = [f"file://{tmp_path}/{name}" for name in ("a.zip", "captions.json")]
    more = {"uri": uris[1]}
    part = get(uris[0], None, more, unpack=True)
    assert contents(part) == {**FILES, "captions.json": b"[]"}
    sources = read_checked(part / "source.json")["sources"]
    assert [source["uri"] for source in sources] == uris
    assert sources[1]["sha256"] == sha256_file(tmp_path / "captions.json")


def test_a_file_that_two_sources_give_is_named(tmp_path, get):
    archive = write_zip(tmp_path / "a.zip", FILES)
    (tmp_path / "labels.json").write_text("[]")
    with pytest.raises(SourceError, match=r"another source has given labels\.json"):
        get(f"file://{archive}", None, {"uri": f"file://{tmp_path}/labels.json"}, unpack=True)
    # what is kept is not touched
    assert contents(get(f"file://{archive}", unpack=True)) == FILES


@pytest.mark.parametrize("write", [write_zip, write_tar])
@pytest.mark.parametrize("unsafe", ["../outside.txt", "a/../../outside.txt", "/tmp/../outside.txt"])
def test_a_path_that_leads_out_is_refused(tmp_path, get, write, unsafe):
    archive = write(tmp_path / "a.archive", {**FILES, unsafe: b"x"})
    with pytest.raises(SourceError, match="outside"):
        get(f"file://{archive}", unpack=True)
    assert not list(tmp_path.rglob("outside.txt"))
    assert not Path("/outside.txt").exists()
    assert not (tmp_path / "part").exists()


@pytest.mark.parametrize("size", [0.5, 0.97])
@pytest.mark.parametrize(("name", "write"), [("a.zip", write_zip), ("a.tar.gz", write_tar)])
def test_a_cut_archive_is_refused(tmp_path, get, name, write, size):
    archive = write(tmp_path / name, FILES)
    archive.write_bytes(archive.read_bytes()[: int(size * archive.stat().st_size)])
    with pytest.raises(SourceError, match=r"neither a zip nor|cannot be unpacked"):
        get(f"file://{archive}", unpack=True)
    write(archive, FILES)  # and mended, it is fetched
    assert contents(get(f"file://{archive}", unpack=True)) == FILES


def test_a_damaged_archive_and_what_is_none_are_refused(tmp_path, get):
    archive = write_zip(tmp_path / "a.zip", FILES)
    content = bytearray(archive.read_bytes())
    content[45] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(SourceError, match="cannot be unpacked"):
        get(f"file://{archive}", unpack=True)
    (tmp_path / "b.zip").write_text("<html>404</html>")
    with pytest.raises(SourceError, match="neither a zip nor a tar archive"):
        get(f"file://{tmp_path}/b.zip", unpack=True)
    (tmp_path / "folder").mkdir()
    with pytest.raises(SourceError, match="unpack is for one file, this gives 0"):
        get(f"file://{tmp_path}/folder", unpack=True)


def test_backslashes_in_a_zip_archive_are_folders(tmp_path, get):
    """As some programs for Windows write it; a path that leads out is refused all the same."""
    files = {name.replace("/", "\\"): content for name, content in FILES.items()}
    archive = write_zip(tmp_path / "a.zip", files)
    assert contents(get(f"file://{archive}", unpack=True)) == FILES
    archive = write_zip(tmp_path / "b.zip", {"train\\..\\..\\x": b""})
    with pytest.raises(SourceError, match="unsafe path"):
        get(f"file://{archive}", unpack=True)
