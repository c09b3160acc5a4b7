"""Names that come from data: a path in their folder, or refused with the reason."""

from pathlib import Path

import pytest

from depalm.files import OutsideError, inside

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
