"""The page of `depalm chat`: in a browser, and against other sites."""

import base64
import http.client
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from depalm.cli_chat import LARGEST, server
from depalm.media.image import load_image
from depalm.predictor import Answer
from depalm.rejects import MediaError
from tests.support.browser import opened_at

EVIL = "<img src=x onerror=document.title='x'>"


class Model:
    """Says how large a photo is, as a trained adapter would answer."""

    def __init__(self, modality: str | None = "image", template: str = "{question} A:"):
        self.backbone = None if modality is None else object()
        self.usage = SimpleNamespace(template=template, backbone=SimpleNamespace(modality=modality))

    def answers(self, media: Sequence[Path | None], questions: Sequence[str]) -> list[Answer]:
        [path], [question] = media, questions
        if path is None:
            return [Answer(None, question, f"nothing of {question}")]
        try:
            size = load_image(path).size
        except MediaError as error:
            return [Answer(str(path), question, None, str(error))]
        return [Answer(str(path), question, f"{size[0]} x {size[1]} {EVIL}")]


def served(model: Model) -> Iterator[int]:
    with server(model, 0) as serving:  # type: ignore[arg-type]
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield serving.server_port
        serving.shutdown()


@pytest.fixture
def port() -> Iterator[int]:
    yield from served(Model())


@pytest.fixture
def blind() -> Iterator[int]:
    yield from served(Model(None))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 48), (200, 30, 30)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


DROP = """([content, name]) => {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name));
    const event = new DragEvent("drop", { dataTransfer: transfer, cancelable: true });
    document.getElementById("drop").dispatchEvent(event);
}"""


def test_a_photo_is_dropped_and_asked_about(port: int, photo: Path) -> None:
    with opened_at(f"http://127.0.0.1:{port}/", 400) as (tab, complaints):
        tab.wait_for_selector("#kind:text-is('photo')")
        tab.fill("#question", "How large?")
        tab.click("button")
        assert tab.inner_text(".answer.error") == "choose a photo first"
        tab.evaluate(DROP, [base64.b64encode(photo.read_bytes()).decode(), "photo.png"])
        tab.wait_for_selector("#preview img[alt='photo.png']")
        tab.click("button")
        tab.wait_for_selector("#said li:nth-child(2)")
        assert tab.evaluate("document.querySelector('#preview img').naturalWidth") == 64
        # what the model says is text
        assert tab.locator(".answer").first.inner_text() == f"64 x 48 {EVIL}"
        assert tab.locator(".question").first.inner_text() == "How large?"
        assert tab.title() == "Ask the adapter"
        assert tab.evaluate("document.documentElement.scrollWidth") <= 400
        assert complaints == []


def test_a_file_that_cannot_be_read_is_told(port: int, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("no photo")
    with opened_at(f"http://127.0.0.1:{port}/") as (tab, _):
        tab.wait_for_selector("#kind:text-is('photo')")
        tab.set_input_files("#file", tmp_path / "photo.jpg")
        tab.click("button")
        tab.wait_for_selector(".answer.error")
        assert "not an image that Pillow knows" in tab.inner_text(".answer.error")


def test_an_adapter_that_reads_nothing_takes_a_question_alone(blind: int) -> None:
    with opened_at(f"http://127.0.0.1:{blind}/") as (tab, complaints):
        tab.wait_for_selector("#drop", state="hidden")
        tab.fill("#question", "red?")
        tab.click("button")
        tab.wait_for_selector(".answer")
        assert tab.inner_text(".answer") == "nothing of red?"
        assert complaints == []


def ask(
    port: int, method: str, place: str, body: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, place, body, told)
    response = connection.getresponse()
    return response.status, response.read()


def test_what_the_page_asks_for(port: int, photo: Path) -> None:
    status, found = ask(port, "GET", "/about")
    assert (status, json.loads(found)) == (200, {"modality": "image", "asks": True})
    place = "/answer?question=How%20large%3F"
    status, found = ask(port, "POST", place, photo.read_bytes(), X_Depalm="chat")
    assert (status, json.loads(found)) == (200, {"answer": f"64 x 48 {EVIL}"})
    assert ask(port, "GET", "/../etc/passwd")[0] == 404
    assert ask(port, "POST", "/other", b"x", X_Depalm="chat")[0] == 404


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", {}, 403),  # a form of another site cannot send the header
        ("POST", {"X_Depalm": "chat", "Host": "evil.example:80"}, 403),
        ("GET", {"Host": "evil.example:80"}, 403),
        ("POST", {"X_Depalm": "chat", "Content_Length": str(LARGEST + 1)}, 413),
    ],
)
def test_other_sites_and_endless_files_are_refused(
    port: int, method: str, headers: dict[str, Any], status: int
) -> None:
    place = "/answer?question=x" if method == "POST" else "/"
    assert ask(port, method, place, b"x" if method == "POST" else None, **headers)[0] == status
