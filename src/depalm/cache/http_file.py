"""Files on a web server of which parts are read, by HTTP range requests; nothing is stored."""

import re
import time
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass, url2pathname

import numpy as np
from numpy.typing import NDArray
from urllib3 import BaseHTTPResponse, PoolManager, ProxyManager, Retry
from urllib3.exceptions import HTTPError

from depalm.progress import logger
from depalm.sources.download import RETRY_SECONDS, DownloadError, file_version

CONNECTIONS = 8  # requests at a time, and connections that are kept for the next ones
HEADERS = {"User-Agent": "depalm", "Accept-Encoding": "identity"}
REDIRECTS = Retry(5, connect=0, read=0, other=0)


class RemoteFile:
    """A file on a web server as an array of bytes: each slice of it is one request.

    To open it and to slice it raises DownloadError where the server refuses, cannot give a part of
    a file, or has another file there than when it was opened, and where the connection fails in all
    attempts. Threads may share it.
    """

    def __init__(self, url: str, http: PoolManager):
        self.url, self.http = url, http
        self.version: tuple[str, int] | None = None  # what tells it from others, and its length
        self._read(0, 1)

    def __len__(self) -> int:
        return 0 if self.version is None else self.version[1]

    def __getitem__(self, part: slice) -> NDArray[np.uint8]:
        start, stop, _ = part.indices(len(self))
        return np.frombuffer(self._read(start, stop), np.uint8)

    def _read(self, start: int, stop: int) -> bytes:
        for pause in (*RETRY_SECONDS, None):
            try:
                return self._attempt(start, stop)
            except HTTPError as error:
                if pause is None:
                    raise DownloadError(
                        f"{self.url}: {error}; check the network and run again"
                    ) from error
                logger.info("%s: %s; trying again in %g s", self.url, error, pause)
                time.sleep(pause)
        raise AssertionError("the last attempt has returned or raised")

    def _attempt(self, start: int, stop: int) -> bytes:
        """Raises HTTPError if another attempt may do better."""
        headers = {**HEADERS, "Range": f"bytes={start}-{stop - 1}"}
        # not loaded before we know that it is not the whole file
        with self.http.request(
            "GET", self.url, headers=headers, retries=REDIRECTS, preload_content=False
        ) as response:
            answer = f"the server answers {response.status} {response.reason}"
            if response.status >= 500 or response.status == 429:
                raise HTTPError(answer)
            if response.status >= 400 and response.status != 416:
                raise DownloadError(
                    f"{self.url}: {answer}; correct the URL, or see whether the publisher wants a "
                    "login"
                )
            self._check_part(response, start, stop)
            return response.read()

    def _check_part(self, response: BaseHTTPResponse, start: int, stop: int) -> None:
        """Whether these are the bytes that were asked for, of the file that was opened."""
        given = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
        version = (file_version(response.headers), int(given[3])) if given else None
        self.version = self.version or version
        if response.status == 416 or version not in (None, self.version):
            raise DownloadError(
                f"{self.url} is empty, or has changed on the server since it was opened; run again "
                "when it is whole"
            )
        if not given or (int(given[1]), int(given[2])) != (start, stop - 1):
            raise DownloadError(
                f"{self.url}: the server does not give parts of a file (HTTP range requests); "
                "leave out cache.stream, to fetch whole shards once, or publish them on one that "
                "does"
            )


def http_pool(url: str) -> PoolManager:
    """Connections to the server of `url`, by the proxy that the environment names for it, if any.

    Threads may share them. They close when nothing refers to them any more.
    """
    address = urlsplit(url)
    proxy = None if proxy_bypass(address.hostname or "") else getproxies().get(address.scheme)
    if proxy is None:
        return PoolManager(maxsize=CONNECTIONS, timeout=60)
    return ProxyManager(proxy, maxsize=CONNECTIONS, timeout=60)


def local_path(place: Path | str) -> Path | None:
    """Where on this machine a path or a file:// URL is; None for one on a web server."""
    address = urlsplit(str(place))
    if address.scheme in ("http", "https"):
        return None
    return Path(url2pathname(address.path) if address.scheme == "file" else place)
