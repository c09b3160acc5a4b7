"""The command `depalm chat`: a page on this machine on which one asks a trained adapter."""

import argparse
import json
import tempfile
import textwrap
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from depalm.cli_options import add_models
from depalm.errors import DepalmError
from depalm.progress import logger

if TYPE_CHECKING:
    from depalm.predictor import Predictor

HOST, PORT = "127.0.0.1", 7860
LARGEST = 512 * 2**20  # bytes of a file
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def add_chat(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command that serves the page."""
    summary = "Open a page on which a trained adapter can be asked."
    text = (
        "The page takes a photo, sound or video by drag and drop, and answers questions as "
        "`depalm predict` does. It is served to this machine alone; Ctrl-C ends it. On a server "
        "forward the port: ssh -L 7860:localhost:7860 HOST."
    )
    command = commands.add_parser(
        "chat",
        help=summary,
        description=f"{summary}\n\n{textwrap.fill(text, 90)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("folder", metavar="FOLDER", help="with adapter.json, or hf://owner/name")
    command.add_argument("--port", type=int, default=PORT, help="of the page (%(default)s)")
    add_models(command)
    command.set_defaults(run=_chat, log=None)


def _chat(options: argparse.Namespace) -> None:
    from depalm.predictor import load_adapter

    model = load_adapter(options.folder, options.device, options.resources)
    with server(model, options.port) as serving:
        print(f"http://{HOST}:{serving.server_port} (Ctrl-C ends it)", flush=True)
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            logger.info("ended")


def server(model: "Predictor", port: int) -> ThreadingHTTPServer:
    """What serves the page; port 0 takes a free one. Raises OSError for one that is taken."""
    asking = threading.Lock()  # one question at a time

    def answer(content: bytes | None, question: str) -> dict[str, Any]:
        with tempfile.NamedTemporaryFile() as file:  # formats are told from content, not from names
            media = None
            if content is not None:
                file.write(content)
                file.flush()
                media = Path(file.name)
            try:
                with asking:
                    [found] = model.answers([media], [question])
            except DepalmError as error:
                return {"error": str(error)}
        return {"error": found.error} if found.error else {"answer": found.prediction}

    return ThreadingHTTPServer((HOST, port), _handler(about(model), answer))


def about(model: "Predictor") -> dict[str, Any]:
    """What the page says of the adapter."""
    usage = model.usage
    reads = None if model.backbone is None else usage.backbone.modality
    return {"modality": reads, "asks": "{question}" in usage.template}


def _handler(
    told: dict[str, Any], answer: Callable[[bytes | None, str], dict[str, Any]]
) -> type[BaseHTTPRequestHandler]:
    page = files("depalm").joinpath("chat.html").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if not self.is_local():
                self.send_error(403)
            elif path == "/":
                self.reply(page, "text/html; charset=utf-8")
            elif path == "/about":
                self.reply(json.dumps(told).encode(), "application/json")
            else:
                self.send_error(404)

        def do_POST(self) -> None:
            asked = urlsplit(self.path)
            size = int(self.headers.get("Content-Length") or 0)
            if not self.is_local() or self.headers.get("X-Depalm") != "chat":
                self.send_error(403)
            elif asked.path != "/answer":
                self.send_error(404)
            elif size > LARGEST:
                self.send_error(413)
            else:
                question = parse_qs(asked.query).get("question", [""])[0]
                content = self.rfile.read(size) if size else None
                said = answer(content, question)
                self.reply(json.dumps(said).encode(), "application/json")

        def is_local(self) -> bool:
            """Whether it is this page that asks: no other site's, under a name of its own."""
            host = (self.headers.get("Host") or "").rpartition(":")[0]
            return host in (HOST, "localhost")

        def reply(self, content: bytes, kind: str) -> None:
            self.send_response(200)
            for name, value in {**HEADERS, "Content-Type": kind}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *values: Any) -> None:
            logger.debug(format, *values)

    return Handler
