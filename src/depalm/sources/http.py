"""HTTP for all that reads the web: proxies of the environment, redirections, patience."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from urllib3 import BaseHTTPResponse, PoolManager, ProxyManager
from urllib3.exceptions import HTTPError
from urllib3.util import make_headers, parse_url

from depalm.errors import DepalmError
from depalm.progress import logger

CONNECTIONS = 8  # requests at a time, and connections that are kept for the next ones
HEADERS = {"User-Agent": "depalm", "Accept-Encoding": "identity"}
MEBIBYTE = 2**20
REDIRECTIONS = 10
RETRY_SECONDS = (1.0, 5.0, 20.0)  # pauses between attempts when a connection fails
TIMEOUT = 60  # seconds without an answer
UNSATISFIABLE = 416  # the file has no such part
Value = TypeVar("Value")


class DownloadError(DepalmError):
    """Something that the network does not give; the message says why and what to do about it."""


class UnreachableError(DownloadError):
    """The connection failed in all attempts."""


class HttpClient:
    """Connections to web servers, by the proxy that the environment names for each, if any.

    Threads may share it. The connections close when nothing refers to it any more.
    """

    def __init__(self) -> None:
        self._pools: dict[str | None, PoolManager] = {}

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str]) -> Iterator[BaseHTTPResponse]:
        """The answer to a request, whose content is not loaded yet; 416 is an answer.

        Raises HTTPError if another attempt may do better, DownloadError if the server refuses.
        """
        with self._follow(url, {**HEADERS, **headers}) as response:
            answer = answer_of(response)
            if response.status >= 500 or response.status == 429:
                raise HTTPError(answer)
            if response.status >= 400 and response.status != UNSATISFIABLE:
                raise DownloadError(
                    f"{answer}; correct the URL, or see whether the publisher wants a login"
                )
            yield response

    def _follow(self, url: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
        """The first answer that is no redirection."""
        for _ in range(1 + REDIRECTIONS):
            response = self._pool(url).request(
                "GET",
                url,
                headers=headers,
                redirect=False,
                retries=False,
                preload_content=False,
                enforce_content_length=False,  # see `content_of`
            )
            location = response.get_redirect_location()
            if not location:
                return response
            response.close()
            url = urljoin(url, location)
        raise DownloadError(f"the server redirects more than {REDIRECTIONS} times; correct the URL")

    def _pool(self, url: str) -> PoolManager:
        address = urlsplit(url)
        proxy = None if proxy_bypass(address.hostname or "") else getproxies().get(address.scheme)
        if proxy not in self._pools:
            self._pools[proxy] = _new_pool(proxy)
        return self._pools[proxy]


def _new_pool(proxy: str | None) -> PoolManager:
    if proxy is None:
        return PoolManager(maxsize=CONNECTIONS, timeout=TIMEOUT)
    address = proxy if "://" in proxy else f"http://{proxy}"
    login = parse_url(address).auth
    headers = make_headers(proxy_basic_auth=unquote(login)) if login else None
    return ProxyManager(address, proxy_headers=headers, maxsize=CONNECTIONS, timeout=TIMEOUT)


def answer_of(response: BaseHTTPResponse) -> str:
    """The status of the server's answer, in words."""
    return f"the server answers {response.status} {response.reason}"


def content_of(response: BaseHTTPResponse, done: int = 0) -> Iterator[bytes]:
    """The content in pieces; `done` bytes of the file were there before.

    Raises HTTPError if the connection is cut.
    """
    total = length_of(response, done)
    while piece := response.read(MEBIBYTE, decode_content=False):
        done += len(piece)
        yield piece
    if total not in (None, done):
        raise HTTPError(f"the connection was cut after {done} of {total} bytes")


def length_of(response: BaseHTTPResponse, done: int = 0) -> int | None:
    """Bytes of the whole file, if the server tells: `done` of them were there before."""
    length = response.headers.get("Content-Length")
    return None if length is None else done + int(length)


def file_version(response: BaseHTTPResponse) -> str:
    """What tells this version of a file from others, if anything: strong ETag or date."""
    etag = response.headers.get("ETag", "W/")
    return response.headers.get("Last-Modified", "") if etag.startswith("W/") else etag


def patiently(what: str, attempt: Callable[[], Value]) -> Value:
    """What `attempt` returns; if the connection fails (HTTPError), it is made again after a pause.

    Raises UnreachableError if all attempts fail.
    """
    for pause in (*RETRY_SECONDS, None):
        try:
            return attempt()
        except HTTPError as error:
            if pause is None:
                raise UnreachableError(f"{error}; check the network and run again") from error
            logger.info("%s: %s; trying again in %g s", what, error, pause)
            time.sleep(pause)
    raise AssertionError("the last attempt has returned or raised")
