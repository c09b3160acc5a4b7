"""Edits of the files that a manifest was made of, and of a model's: noticed by their content."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from depalm.datasets.readers import READERS
from depalm.datasets.watched import (
    Seen,
    look,
    model_state,
    notice,
    read_files,
    write_files,
)
from depalm.files import OutsideError, read_json, sha256_file
from depalm.sources.model_folder import model_files
from tests.support.media_files import SHARED

KEYS = [("annotations", "a.json"), ("media", "1.png"), ("media", "absent.png")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.json").write_text("[1]")
    (tmp_path / "data/1.png").write_text("one")
    return tmp_path / "data"


class Manifest:
    """A manifest's record and state, of files in one folder."""

    def __init__(self, data: Path):
        self.folders = {"annotations": data, "media": data}
        self.record, self.state = data.parent / "r.parquet", data.parent / "s/files.json"

    def make(self) -> None:
        """What the manifest's job does."""
        files = look(KEYS, self.folders, {})
        write_files(self.record, files, self.state.read_text())

    def noticed(self) -> str:
        notice(self.record, self.state, self.folders)
        return self.state.read_text()


@pytest.fixture
def manifest(data: Path) -> Manifest:
    made = Manifest(data)
    made.noticed()
    made.make()
    return made


def edit(path: Path, text: str) -> None:
    """Another content of the same size, and the time of before."""
    times = path.stat()
    path.write_text(text)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_what_was_looked_at_is_noted_and_comes_back(manifest: Manifest, data: Path) -> None:
    files, state = read_files(manifest.record)
    assert files.keys() == set(KEYS)
    assert files["media", "1.png"].sha256 == sha256_file(data / "1.png")
    assert files["media", "absent.png"] == Seen((0, 0, 0), "")
    assert state == manifest.state.read_text()


@pytest.mark.parametrize("name", ["a.json", "1.png"])
def test_an_edit_changes_the_state_and_taken_back_it_is_what_it_was(
    manifest: Manifest, data: Path, name: str
) -> None:
    before, content = manifest.noticed(), (data / name).read_text()
    edit(data / name, "[2]")
    edited = manifest.noticed()
    assert edited != before
    assert manifest.noticed() == edited
    edit(data / name, content)
    assert manifest.noticed() == before
    edit(data / name, "[2]")
    manifest.noticed()
    manifest.make()
    assert manifest.noticed() == edited


def test_a_file_that_appears_or_goes_changes_the_state(manifest: Manifest, data: Path) -> None:
    before = manifest.noticed()
    (data / "absent.png").write_text("new")
    assert manifest.noticed() != before
    (data / "absent.png").unlink()
    assert manifest.noticed() == before
    (data / "1.png").unlink()
    assert manifest.noticed() != before


def test_touched_copied_and_stray_files_change_nothing(manifest: Manifest, data: Path) -> None:
    before, time = manifest.noticed(), manifest.state.stat().st_mtime_ns
    (data / "stray.png").write_text("stray")
    os.utime(data / "1.png")
    data.rename(data.with_name("old"))
    data.mkdir()
    for path in data.with_name("old").iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    assert manifest.noticed() == before
    assert manifest.state.stat().st_mtime_ns == time
    files, _ = read_files(manifest.record)  # they are not read again next time
    assert files["media", "1.png"].status[1] == (data / "1.png").stat().st_mtime_ns


def test_a_folder_that_is_gone_tells_nothing(manifest: Manifest, data: Path) -> None:
    before = manifest.noticed()
    data.rename(data.with_name("elsewhere"))
    assert manifest.noticed() == before


def test_a_damaged_record_makes_the_manifest_anew(manifest: Manifest) -> None:
    before = manifest.noticed()
    manifest.record.write_bytes(b"PAR1")
    assert manifest.noticed() != before


def test_pipes_and_folders_are_no_files(data: Path) -> None:
    os.mkfifo(data / "pipe.png")
    (data / "folder.png").mkdir()
    found = look([("media", "pipe.png"), ("media", "folder.png")], {"media": data}, {})
    assert set(found.values()) == {Seen((0, 0, 0), "")}
    with pytest.raises(OutsideError):
        look([("media", "../x")], {"media": data}, {})


def test_the_state_of_a_model_is_that_of_the_files_that_matter(tmp_path: Path) -> None:
    folder, state = tmp_path / "model", tmp_path / "m/files.json"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md"):
        (folder / name).write_text(name)
    model_state(state, folder, model_files)
    before, time = read_json(state), state.stat().st_mtime_ns
    assert before.keys() == {"config.json", "model.safetensors", "tokenizer.json"}
    edit(folder / "README.md", "README.dm")
    os.utime(folder / "config.json")
    model_state(state, folder, model_files)
    assert state.stat().st_mtime_ns == time
    edit(folder / "tokenizer.json", "tokenizer.nosj")
    model_state(state, folder, model_files)
    assert read_json(state) != before


# readers say which files they read

WHERE = {
    "aokvqa": "aokvqa",
    "coco_karpathy": "coco",
    "vqav2": "vqav2",
    "okvqa": "okvqa",
}
OPENED: list[str] = []


def note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str):
        OPENED.append(arguments[0])


@pytest.fixture(scope="module")
def opened() -> Iterator[list[str]]:
    """The files that this process opens. (A hook stays for as long as the process lives.)"""
    sys.addaudithook(note)
    return OPENED


def roots(reader: str) -> list[tuple[Path, str]]:
    """Folders and splits that a reader reads, among the tiny data and those that are shared."""
    found = []
    for root in [*SHARED.glob("*"), *SHARED.glob("*/*")]:
        for split in ("train", "val", "test"):
            names = [name.format(split=split) for name in READERS[reader].files]
            if any("*" not in name and (root / name).is_file() for name in names):
                found.append((root, split))
    return found


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_opens_no_other_annotations_than_those_it_names(
    reader: str, opened: list[str]
) -> None:
    cases = roots(reader)
    if not cases:
        pytest.skip(f"no shared data of {reader}: set DEPALM_SHARED to the shared data")
    for root, split in cases:
        opened.clear()
        try:
            list(READERS[reader].read(root, split))
        except Exception:  # of another dataset that has a file of that name
            continue
        here = {
            Path(name).relative_to(root).as_posix()
            for name in opened
            if name.startswith(f"{root}/")
        }
        assert here <= {name.format(split=split) for name in READERS[reader].files}
