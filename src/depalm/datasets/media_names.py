"""The media files that annotations name, as they are called on this disk."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from depalm.datasets.containers import container_of
from depalm.files import OutsideError, inside

MISSING = "no such media file"
JPEG = {".jpeg": ".jpg", ".jpe": ".jpg"}


@dataclass(frozen=True)
class MediaFinder:
    """Finds the files that annotations name below `root`, the folder of the media.

    absolute: whether an absolute path will do if the file is below the root.
    folders: a folder that the annotations name, and others in which its files may lie instead.
    """

    root: Path
    absolute: bool = False
    folders: Sequence[str] = ()
    _found: dict[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    _listed: dict[str, dict[str, str]] = field(default_factory=dict, repr=False)

    def find(self, media: str) -> tuple[str, str]:
        """The name of a file below the root, and what is wrong with it, if anything.

        A file will do whose name is written in another form of Unicode, with a backslash where a
        slash belongs, or whose suffix is in capitals or another one of JPEG (.jpg, .jpeg).
        """
        if media not in self._found:
            self._found[media] = self._look(media)
        return self._found[media]

    def _look(self, media: str) -> tuple[str, str]:
        path = Path(media)
        if self.absolute and path.is_relative_to(self.root) and path != self.root:
            media = path.relative_to(self.root).as_posix()
        try:
            if self._is_there(media):
                return media, ""
            for name in self._alternatives(media):
                if self._is_there(name):
                    return name, ""
        except OutsideError as error:
            return media, f"its media path {error.reason}"
        return media, MISSING

    def _is_there(self, media: str) -> bool:
        found = inside(self.root, media)
        return found.is_file() or container_of(found) is not None

    def _alternatives(self, media: str) -> Iterator[str]:
        plain = media.replace("\\", "/")
        forms = dict.fromkeys(unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))
        for name in (plain, *forms):
            yield name
            for folder in self._folders(PurePosixPath(name)):
                inner = PurePosixPath(name).name
                for known in (inner, self._names(folder).get(_key(inner), inner)):
                    yield PurePosixPath(folder, known).as_posix()

    def _folders(self, path: PurePosixPath) -> list[str]:
        """The folder of a file, and those in which it may lie instead."""
        own = path.parent.as_posix()
        return [own, *(self.folders[1:] if own in self.folders[:1] else ())]

    def _names(self, folder: str) -> dict[str, str]:
        """The files of a folder below the root, by what they have in common with other names."""
        if folder not in self._listed:
            path = self.root if folder == "." else inside(self.root, folder)
            names = sorted(p.name for p in path.iterdir()) if path.is_dir() else []
            self._listed[folder] = {_key(name): name for name in reversed(names)}
        return self._listed[folder]


def _key(name: str) -> str:
    """What names of one file have in common."""
    path = PurePosixPath(unicodedata.normalize("NFC", name))
    suffix = path.suffix.lower()
    return f"{path.stem}{JPEG.get(suffix, suffix)}"
