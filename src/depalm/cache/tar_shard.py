"""A shard as a tar archive that the webdataset library can read.

    {name}.tar
        {row}.media.txt               for each sample: the SHA-256 of its file,
        {row}.cls.npy                 [L, D],
        {row}.tokens.layer_{l}.npy    [T, D]
        __offsets__                   npy [N, arrays]: where each row starts, in bytes from the
                                      start of the archive
        __metadata__                  JSON
        __footer__                    512 bytes of JSON: where the two stand, and their CRC-32C

webdataset leaves out members named __*__. The footer has a fixed place before the end, so that a
reader maps the archive into memory, or asks a web server for parts of it, and finds every row
without a scan.
"""

import json
import tarfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from depalm.cache.errors import ShardError
from depalm.cache.formats import BLOCK, OFFSET, Rows, npy_header
from depalm.cache.http_file import RemoteFile
from depalm.cache.shard import (
    Bits,
    Content,
    Layout,
    Shard,
    StoredRows,
    StreamedShard,
    crc32c,
    map_file,
    rows_in,
)
from depalm.files import atomic_file

END = 2 * BLOCK  # zeros that end an archive
Buffer = bytes | memoryview


class TarWriter:
    """Appends samples to one archive; made by `write_tar`."""

    def __init__(self, stream: IO[bytes], rows: Rows, dtype: str):
        self.stream, self.position, self.samples = stream, 0, 0
        self.headers = {name: npy_header(row, dtype) for name, row in rows.items()}
        self.offsets = array("q")

    def append(self, ids: Sequence[str], rows: Mapping[str, Bits]) -> None:
        for i, media in enumerate(ids):
            key = f"{self.samples:09d}"
            self._write(_member(f"{key}.media.txt", media.encode()))
            for name, header in self.headers.items():
                self.offsets.append(self.position + BLOCK + len(header))
                row = rows[name][i].data.cast("B")
                self._write(_member(f"{key}.{name.replace('/', '.')}.npy", header, row))
            self.samples += 1

    def finish(self, metadata: Mapping[str, Any]) -> None:
        header = npy_header((self.samples, len(self.headers)), OFFSET)
        offsets = np.array(self.offsets, OFFSET).tobytes()
        first = b"".join(_member("__offsets__", header, offsets))
        second = b"".join(_member("__metadata__", json.dumps(metadata).encode()))
        footer = {
            "offsets": self.position,
            "metadata": self.position + len(first),
            "crc32c": crc32c(first + second).hex(),
        }
        content = json.dumps(footer).encode().ljust(BLOCK)
        self._write([first, second, *_member("__footer__", content), bytes(END)])

    def _write(self, parts: Sequence[Buffer]) -> None:
        for part in parts:
            self.position += self.stream.write(part)


@contextmanager
def write_tar(path: Path, rows: Rows, dtype: str) -> Iterator[TarWriter]:
    """Yield the writer of the archive `path`, which appears whole if the block succeeds."""
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        yield TarWriter(stream, rows, dtype)


def open_tar(path: Path) -> Shard:
    """Raises ShardError if `path` is no such archive, or is cut, or its index is damaged."""
    return Shard(path, *_read_index(path, map_file(path)))


def stream_tar(file: RemoteFile) -> StreamedShard:
    """As `open_tar`, of an archive on a web server; raises DownloadError too."""
    return StreamedShard(file.url, *_read_index(file.url, file))


def _read_index(
    path: Path | str, content: Content
) -> tuple[Mapping[str, Any], Mapping[str, StoredRows]]:
    """The metadata and the arrays, from two slices at the end of the archive."""
    end = len(content) - END - 2 * BLOCK  # where the footer starts
    try:
        footer = json.loads(_member_content(content[max(end, 0) :], "__footer__"))
        first, second = footer["offsets"], footer["metadata"]
        index = content[first:end]
        if crc32c(index.tobytes()).hex() != footer["crc32c"]:
            raise ShardError(f"{path} has a damaged index")
        metadata = json.loads(_member_content(index[second - first :], "__metadata__"))
    except (tarfile.HeaderError, ValueError, LookupError, TypeError) as error:
        raise ShardError(f"{path} is cut, or not a shard of a token cache") from error
    rows, samples = rows_in(path, metadata), len(metadata["samples"])
    start = BLOCK + len(npy_header((samples, len(rows)), OFFSET))
    offsets = np.frombuffer(index, OFFSET, samples * len(rows), start).reshape(-1, len(rows))
    return metadata, {
        name: StoredRows(content, offsets[:, i], row) for i, (name, row) in enumerate(rows.items())
    }


def _member(name: str, *content: Buffer) -> list[Buffer]:
    """Header, content and padding of a member; the header holds neither time nor user."""
    info = tarfile.TarInfo(name)
    info.size = sum(map(len, content))
    return [info.tobuf(tarfile.USTAR_FORMAT), *content, bytes(-info.size % BLOCK)]


def _member_content(archive: NDArray[np.uint8], name: str) -> bytes:
    """What the member holds that `archive` starts with. Raises HeaderError or ValueError."""
    info = tarfile.TarInfo.frombuf(archive[:BLOCK].tobytes(), "ascii", "strict")
    if info.name != name:
        raise ValueError(f"found {info.name}, not {name}")
    return archive[BLOCK : BLOCK + info.size].tobytes()


LAYOUT = Layout(write_tar, open_tar, stream_tar)
