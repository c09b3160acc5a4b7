"""Whole-or-nothing files: every output is written under a temporary name and renamed at the end.

What is renamed is on the disk before its new name is, so that a power cut leaves no cut file. And
names that come from data: they become paths here, or are refused.
"""

import ctypes
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from secrets import token_hex
from typing import Any

from depalm.errors import BadJSON, DamagedFile, DepalmError

SHA256_DIGITS = 64
CHECKSUM = "checksum"  # of the other keys of a JSON object, in it
FULL = (errno.ENOSPC, errno.EDQUOT)  # of a disk, or of what a user may have of it
MAX_NAME, MAX_PATH = 255, 4095  # bytes that a file's name and a path may have, on Linux


class OutsideError(DepalmError):
    """A name from data that leaves its folder, or that no file can have; `reason` says why."""

    def __init__(self, name: object, reason: str):
        super().__init__(f"the name {name!r:.300} {reason}")
        self.reason = reason


def inside(folder: Path | str, name: str) -> Path:
    """The path of the file `name` in `folder`, or in a folder below it.

    Every name that this program did not make goes through here: of an archive's members, of a
    hub's or an index's files, of the rows of a table. Links that are already on the disk are
    followed, for whoever set up the folder placed them. Raises OutsideError if the name is empty,
    absolute, has `..` in it (for Windows too, where a backslash separates), holds a NUL or what
    is not Unicode, or is too long for a file system.
    """
    if not isinstance(name, str):
        raise OutsideError(name, "is no text")
    path, windows = PurePosixPath(name), PureWindowsPath(name)
    try:
        sizes = [len(part.encode()) for part in path.parts]
    except UnicodeEncodeError as error:
        raise OutsideError(name, "is not Unicode") from error
    if not path.parts:
        raise OutsideError(name, "is empty")
    if "\0" in name:
        raise OutsideError(name, "holds a NUL")
    if path.is_absolute() or windows.anchor:
        raise OutsideError(name, "is an absolute path, or has a drive")
    if ".." in path.parts or ".." in windows.parts:
        raise OutsideError(name, "leaves its folder by '..'")
    if max(sizes) > MAX_NAME:
        raise OutsideError(name, f"has a part of more than {MAX_NAME} bytes")
    found = Path(folder, path)
    if len(os.fsencode(found)) > MAX_PATH:
        raise OutsideError(name, f"makes a path of more than {MAX_PATH} bytes")
    return found


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` if the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    temporary = _temporary(path)
    temporary.touch(exist_ok=False)  # who may read and write it is the umask's matter
    try:
        with naming(path):
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: Path | str) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; it takes the place of `path` if the block
    succeeds.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        with naming(path):
            yield temporary
            _sync_tree(temporary)
            shutil.rmtree(path, ignore_errors=True)
            temporary.replace(path)
            sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let the error of a full disk, or of a quota, name the file that there is no room for. Such an
    error of a write to an open file names none, and safetensors, which writes in Rust, raises one
    of its own.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    except Exception as error:
        if code := next((code for code in FULL if f"(os error {code})" in str(error)), None):
            raise OSError(code, os.strerror(code), str(path)) from error
        raise


def _temporary(path: Path) -> Path:
    """A name beside `path` that nobody else uses; `_remove_stale` knows it."""
    return path.with_name(f".{path.name}.{token_hex(4)}.tmp")


def link(origin: Path, path: Path) -> None:
    """Give the file `origin` the name `path` too, whole or not at all: as a hard link where the
    file system can, for it takes no space, else as a copy.
    """
    with atomic_file(path) as temporary:
        temporary.unlink()
        try:
            temporary.hardlink_to(origin)
        except OSError:
            shutil.copyfile(origin, temporary)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that does not sync folders
            raise
    finally:
        os.close(handle)


def _sync_tree(root: Path) -> None:
    """Wait until all that was written to the file system of `root` is on the disk: one call for
    the many files of an unpacked archive.
    """
    syncfs = getattr(ctypes.CDLL(None), "syncfs", None)  # Linux has it, and Python does not know it
    if syncfs is None:
        os.sync()
        return
    handle = os.open(root, os.O_RDONLY)
    try:
        if syncfs(handle):
            os.sync()
    finally:
        os.close(handle)


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON (NaN is refused: JSON has none), atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(
            json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        )


def read_json(path: Path | str) -> Any:
    """The value of a JSON file. Raises OSError, and BadJSON, which is a ValueError too."""
    try:
        return json.loads(Path(path).read_text())
    except ValueError as error:
        raise BadJSON(path, str(error)) from error


def write_checked(path: Path | str, content: Mapping[str, Any]) -> None:
    """Write a JSON object with the SHA-256 of its content, its `checksum`, atomically."""
    write_json(path, {**content, CHECKSUM: sha256_json(content)})


def read_checked(path: Path | str) -> dict[str, Any]:
    """The JSON object that `write_checked` wrote, without its checksum, or one that never had any.

    Raises OSError, and DamagedFile if it is not as it was written.
    """
    try:
        content = read_json(path)
        known = content.pop(CHECKSUM, None)
    except (ValueError, AttributeError, TypeError) as error:
        why = error.why if isinstance(error, BadJSON) else error
        raise DamagedFile(path, f"it is not a JSON object: {why}") from error
    if known is None and (name := _misnamed(content)) is not None:
        raise DamagedFile(path, f"its checksum is called {name!r}")
    if known is not None and known != sha256_json(content):
        raise DamagedFile(path, "its content has another checksum than it tells")
    return dict(content)


def _misnamed(content: Mapping[str, Any]) -> str | None:
    """The key of a checksum whose name is damaged; None if the object has none."""
    for key, value in content.items():
        if isinstance(value, str) and len(value) == SHA256_DIGITS:
            rest = {other: content[other] for other in content if other != key}
            if value == sha256_json(rest):
                return key
    return None


def require_sha256(path: Path | str, known: str | None) -> None:
    """Raise DamagedFile if the bytes of a file have another SHA-256 than the known one, if any."""
    if known is not None and (found := sha256_file(path)) != known:
        raise DamagedFile(path, f"its SHA-256 is {found}, but was {known}")


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_tree(root: Path | str) -> str:
    """SHA-256 over the relative names and contents of all files under `root`, in name order."""
    root = Path(root)
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(root).as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError, also if an object has a key twice, or if values
    are nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object, {content!s:.100}")
    return content


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value, independent of key order: the hash of a configuration."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def first_difference(found: Any, expected: Any, field: str) -> tuple[str, Any, Any] | None:
    """The first field, named by its path, in which `found` is not `expected`; both values."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in dict.fromkeys((*expected, *found)):
            place = f"{field}.{key}" if field else str(key)
            below = first_difference(found.get(key), expected.get(key), place)
            if below is not None:
                return below
        return None
    return None if found == expected else (field, found, expected)


def _remove_stale(path: Path) -> None:
    """Remove what a killed writer of `path` left behind; an output has one writer at a time."""
    for stale in path.parent.glob(f".{path.name}.*.tmp"):
        if stale.is_dir():
            shutil.rmtree(stale, ignore_errors=True)
        else:
            stale.unlink(missing_ok=True)
