"""Whether a downloaded file is what its name says: servers answer with web pages, and connections
end early, without saying so.
"""

import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from depalm.sources.http import DownloadError

HEAD, TAIL = 1024, 64  # bytes that are looked at
PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?<(?:!doctype\s+html|html)", re.I)
TITLE = re.compile(rb"<title[^>]*>\s*([^<]{1,100})", re.I)
ZIP = (b"PK\x03\x04", b"PK\x05\x06")
MAGIC: dict[str, tuple[bytes, ...]] = {
    ".zip": ZIP,
    ".npz": ZIP,
    ".whl": ZIP,
    ".gz": (b"\x1f\x8b",),
    ".tgz": (b"\x1f\x8b",),
    ".bz2": (b"BZh",),
    ".xz": (b"\xfd7zXZ\x00",),
    ".parquet": (b"PAR1",),
    ".gguf": (b"GGUF",),
    ".jpg": (b"\xff\xd8\xff",),
    ".jpeg": (b"\xff\xd8\xff",),
    ".png": (b"\x89PNG\r\n\x1a\n",),
    # of PyTorch: a zip archive, or a pickle
    **dict.fromkeys((".pt", ".pth", ".ckpt"), (*ZIP, b"\x80")),
}


def require_contents(path: Path, name: str) -> None:
    """Raise DownloadError if the file at `path`, which is published as `name`, is something else,
    or is cut off: by the first bytes of its format, the size in its header, or the checksums in an
    archive.

    A format that is not known here is taken as it is, but for a web page.
    """
    suffix = Path(name).suffix.lower()
    with path.open("rb") as stream:
        head = stream.read(HEAD)
        stream.seek(max(0, path.stat().st_size - TAIL))
        tail = stream.read()
    if not head:
        raise DownloadError("the server gives an empty file; correct the URL")
    if PAGE.match(head) and suffix not in (".html", ".htm"):
        title = TITLE.search(head)
        told = f" ({title[1].decode(errors='replace').strip()!r})" if title else ""
        raise DownloadError(
            f"the server gives a web page{told} in place of {name}; open the URL in a browser and "
            "see whether it wants a login or a confirmation"
        )
    if suffix in MAGIC and not head.startswith(MAGIC[suffix]):
        raise DownloadError(f"what the server gives is no {suffix} file; correct the URL")
    problem = CHECKS[suffix](path, head, tail) if suffix in CHECKS else None
    if problem is None and suffix in ARCHIVES:
        problem = ARCHIVES[suffix](path)
    if problem is not None:
        raise DownloadError(f"{name} is damaged: {problem}; run again")


def _json(path: Path, head: bytes, tail: bytes) -> str | None:  # noqa: ARG001
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text.startswith((b"{", b"[")):
        return "it is no JSON"
    end = b"}" if text.startswith(b"{") else b"]"
    return None if tail.rstrip().endswith(end) else "its end is missing"


def _parquet(path: Path, head: bytes, tail: bytes) -> str | None:  # noqa: ARG001
    return None if tail.endswith(b"PAR1") else "its end is missing"


def _safetensors(path: Path, head: bytes, tail: bytes) -> str | None:  # noqa: ARG001
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            return None
    except (SafetensorError, OSError) as error:
        return str(error)


def _zip(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, struct.error) as error:
        return str(error)
    return None if bad is None else f"the checksum of its member {bad} is wrong"


def _tar(path: Path) -> str | None:
    try:
        with tarfile.open(path) as archive:
            while archive.next() is not None:
                pass
            while archive.fileobj is not None and archive.fileobj.read(2**20):
                pass
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        return str(error)
    return None


CHECKS: dict[str, Callable[[Path, bytes, bytes], str | None]] = {
    ".json": _json,
    ".parquet": _parquet,
    ".safetensors": _safetensors,
}
ARCHIVES: dict[str, Callable[[Path], str | None]] = {
    ".zip": _zip,
    ".npz": _zip,
    ".whl": _zip,
    ".tar": _tar,
    ".tgz": _tar,
}
