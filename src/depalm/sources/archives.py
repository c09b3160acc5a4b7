"""Archives that datasets are published as: zip, and tar in any compression."""

import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from depalm.errors import DepalmError
from depalm.files import OutsideError, inside


class ArchiveError(DepalmError):
    """An archive that is damaged, of another format, or wants to write outside its directory."""


def unpack(archive: Path, directory: Path) -> None:
    """Unpack `archive` into `directory`, which exists; its format is told from its content.

    Raises ArchiveError. Files in it keep nothing but their paths and contents; links lead to what
    is unpacked with them.
    """
    try:
        if zipfile.is_zipfile(archive):
            _unpack_zip(archive, directory)
        elif tarfile.is_tarfile(archive):
            _unpack_tar(archive, directory)
        else:
            raise ArchiveError("neither a zip nor a tar archive, or cut off")
    except OutsideError as error:
        raise ArchiveError(f"it holds an unsafe path: {error}; do not use it") from error
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError) as e:
        raise ArchiveError(f"it cannot be unpacked: {e}") from e


def _unpack_zip(archive: Path, directory: Path) -> None:
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            # as some programs for Windows write it, against the format (APPNOTE 4.4.17)
            member.filename = member.filename.replace("\\", "/")
            if not _is_ignored(member.filename):
                inside(directory, member.filename)
        for member in packed.infolist():
            if not _is_ignored(member.filename):
                packed.extract(member, directory)


def _unpack_tar(archive: Path, directory: Path) -> None:
    with tarfile.open(archive) as packed:
        packed.extractall(directory, filter=_TarFilter())
        # a compressed one that is cut between two files has no end, which is not looked at else
        while packed.fileobj and packed.fileobj.read(2**20):
            pass


class _TarFilter:
    """What is unpacked of each member of a tar archive. Raises OutsideError or TarError.

    Only what is not a link has members below it, and a link goes up first and then down. So no
    chain of links leads out, which tarfile's own filter does not ensure in every release.
    """

    def __init__(self) -> None:
        self.links: set[PurePosixPath] = set()

    def __call__(self, member: tarfile.TarInfo, directory: str) -> tarfile.TarInfo | None:
        if _is_ignored(member.name):
            return None
        inside(directory, member.name)
        path = PurePosixPath(member.name)
        if not self.links.isdisjoint(path.parents):
            raise OutsideError(member.name, "goes through a link")
        if member.issym():
            self.links.add(path)
            inside(directory, _target(path.parent, member.linkname))
        elif member.islnk():
            inside(directory, member.linkname)
        return tarfile.data_filter(member, directory)


def _target(folder: PurePosixPath, link: str) -> str:
    """The member that a symbolic link in `folder` leads to; if it leads out, the link as it is."""
    parts = PurePosixPath(link).parts
    ups = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
    if ups > len(folder.parts) or PurePosixPath(link).is_absolute():
        return link
    return str(PurePosixPath(*folder.parts[: len(folder.parts) - ups], *parts[ups:]))


def _is_ignored(name: str) -> bool:
    """Whether it is what macOS leaves in an archive, or the folder itself."""
    path = PurePosixPath(name)
    return (
        name in ("./", ".")
        or path.name == ".DS_Store"
        or path.name.startswith("._")
        or "__MACOSX" in path.parts
    )
