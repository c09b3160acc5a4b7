"""Names that come from data: a path in their folder, or refused with the reason."""

import os
from pathlib import Path

import pytest

from depalm.errors import DepalmError
from depalm.files import (
    OutsideError,
    atomic_directory,
    inside,
    parse_json,
    read_json,
    write_json,
)

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


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o002, 0o664, 0o775), (0o077, 0o600, 0o700)]
)
def test_outputs_follow_the_umask_and_the_group_of_their_folder(
    tmp_path: Path, umask: int, file: int, folder: int
) -> None:
    tmp_path.chmod(0o2775)  # a folder of a group: what is made in it is that group's
    before = os.umask(umask)
    try:
        write_json(tmp_path / "a.json", {})
        with atomic_directory(tmp_path / "b") as made:
            (made / "c").write_text("c")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"a.json": file, "b": folder, "c": file}
    assert (tmp_path / "b").stat().st_mode & 0o2000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": 1, "a": 2}', "stands twice"),
        ("[", "Expecting"),
    ],
)
def test_json_that_is_none_is_a_value_error(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff\xfe", b"<html>"])
def test_a_file_that_is_no_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(DepalmError, match=r"config\.json is not JSON: .*correct it"):
        read_json(tmp_path / "config.json")
