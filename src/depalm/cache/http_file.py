"""Files on a web server of which parts are read, by HTTP range requests; nothing is stored."""

import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
from numpy.typing import NDArray
from urllib3 import BaseHTTPResponse

from depalm.sources.http import (
    UNSATISFIABLE,
    DownloadError,
    HttpClient,
    content_of,
    file_version,
    patiently,
)


class RemoteFile:
    """A file on a web server as an array of bytes: each slice of it is one request.

    Opening and slicing raise DownloadError if the server refuses, lacks range requests, now serves
    another file, or stays unreachable after all retries. Threads may share it.
    """

    def __init__(self, url: str, http: HttpClient):
        self.url, self.http = url, http
        self.version: tuple[str, int] | None = None  # what tells it from others, and its length
        self._read(0, 1)

    def __len__(self) -> int:
        return 0 if self.version is None else self.version[1]

    def __getitem__(self, part: slice) -> NDArray[np.uint8]:
        start, stop, _ = part.indices(len(self))
        return np.frombuffer(self._read(start, stop), np.uint8)

    def _read(self, start: int, stop: int) -> bytes:
        try:
            return patiently(self.url, lambda: self._attempt(start, stop))
        except DownloadError as error:
            raise DownloadError(f"{self.url}: {error}") from error

    def _attempt(self, start: int, stop: int) -> bytes:
        """Raises HTTPError if another attempt may do better."""
        part = {"Range": f"bytes={start}-{stop - 1}"}
        # not loaded before we know that it is not the whole file
        with self.http.get(self.url, part) as response:
            self._check_part(response, start, stop)
            return b"".join(content_of(response))

    def _check_part(self, response: BaseHTTPResponse, start: int, stop: int) -> None:
        """Whether these are the bytes that were asked for, of the file that was opened."""
        given = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
        version = (file_version(response), int(given[3])) if given else None
        self.version = self.version or version
        if response.status == UNSATISFIABLE or version not in (None, self.version):
            raise DownloadError(
                "the file is empty, or has changed on the server since it was opened; run again "
                "when it is whole"
            )
        if not given or (int(given[1]), int(given[2])) != (start, stop - 1):
            raise DownloadError(
                "the server does not give parts of a file (HTTP range requests); leave out "
                "cache.stream, to fetch whole shards once, or publish them on one that does"
            )


def local_path(place: Path | str) -> Path | None:
    """The path on this machine of a path or file:// URL; None for a URL on a web server."""
    address = urlsplit(str(place))
    if address.scheme in ("http", "https"):
        return None
    return Path(url2pathname(address.path) if address.scheme == "file" else place)
