"""Archives that datasets are published as: zip, and tar in any compression."""

import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath


class ArchiveError(ValueError):
    """An archive that is damaged, of another format, or wants to write outside its directory."""


def unpack(archive: Path, directory: Path) -> None:
    """Unpack `archive` into `directory`, which exists; its format is told from its content.

    Raises ArchiveError. Files in it keep nothing but their paths and contents.
    """
    try:
        if zipfile.is_zipfile(archive):
            _unpack_zip(archive, directory)
        elif tarfile.is_tarfile(archive):
            _unpack_tar(archive, directory)
        else:
            raise ArchiveError("neither a zip nor a tar archive, or cut off")
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError) as e:
        raise ArchiveError(f"it cannot be unpacked: {e}") from e


def _unpack_zip(archive: Path, directory: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        names = [name for name in packed.namelist() if not _is_ignored(name)]
        for name in names:
            _check_safe(name)
        packed.extractall(directory, names)


def _unpack_tar(archive: Path, directory: Path) -> None:
    with tarfile.open(archive) as packed:
        packed.extractall(directory, filter=_filter)
        # a compressed one that is cut between two files has no end, which is not looked at else
        while packed.fileobj and packed.fileobj.read(2**20):
            pass


def _filter(member: tarfile.TarInfo, directory: str) -> tarfile.TarInfo | None:
    _check_safe(member.name)
    return None if _is_ignored(member.name) else tarfile.data_filter(member, directory)


def _check_safe(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ArchiveError(f"it holds the unsafe path {name}; do not use it")


def _is_ignored(name: str) -> bool:
    """Whether it is what macOS leaves in an archive."""
    path = PurePosixPath(name)
    return path.name == ".DS_Store" or path.name.startswith("._") or "__MACOSX" in path.parts
