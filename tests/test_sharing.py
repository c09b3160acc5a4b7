"""Adapters to the Hub and from it, against a stand-in of its HTTP interface."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from depalm.adapters.errors import AdapterError
from depalm.adapters.record import RECORD, WEIGHTS
from depalm.adapters.saved import save_adapter
from depalm.files import write_json
from depalm.sharing import SharingError, fetch_adapter, model_card, parsed, push
from depalm.sources.http import DownloadError
from tests.support.hub import COMMIT, Hub, hub
from tests.support.scores import saved, seeds_of
from tests.support.training import build

TRAINING = {
    **{"train_seconds": 12.5, "steps": 300, "samples_seen": 4800, "dtype": "float32"},
    **{"device": "a CPU", "commit": "c" * 40},
}
USAGE = {
    "method": {"version": 1, "inject": {"at": "l0"}},
    "backbone": {
        **{"version": 1, "modality": "image", "loader": "timm", "model": "x", "path": "x"},
        **{"image_size": 8, "mean": [0.5] * 3, "std": [0.5] * 3},
        "shape": {"layers": 1, "tokens": 1, "width": 1},
    },
    "backbone_directory": "x",
    "llm": {
        **{"version": 1, "family": "opt", "shape": {"layers": 1, "width": 1}},
        "source": {"uri": "hf://facebook/opt-125m@main"},
    },
    "llm_directory": "y",
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub() as stand_in:
        monkeypatch.setenv("HF_ENDPOINT", stand_in.url)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield stand_in


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder, beside that of another seed."""
    for number, run in enumerate(seeds_of("qp_l0", 80.0, 82.0)):
        of = tmp_path / f"seed{number}"
        of.mkdir()
        saved(of, [run])
        for file in list(of.iterdir()):
            file.rename(of / file.name.replace("0.", "test.", 1))
    seed = tmp_path / "seed0"
    made = {"method": {}, "backbone": {"shape": {}}, "llm": {}}
    save_adapter(build("qp_l0"), seed / WEIGHTS, seed / RECORD, made, TRAINING, USAGE)
    write_json(seed / "test.generate.json", {"decoding": {"beams": 5}})
    return seed


def test_a_card_says_what_the_adapter_is_and_what_it_scored(folder: Path) -> None:
    card = model_card(folder, "hf://me/shapes", "apache-2.0")
    _, header, text = card.split("---\n", 2)
    assert yaml.safe_load(header) == {
        **{"license": "apache-2.0", "library_name": "depalm", "tags": ["depalm", "adapter"]},
        **{"pipeline_tag": "image-text-to-text", "base_model": ["facebook/opt-125m"]},
        "datasets": ["easy-vqa"],
    }
    assert "# shapes" in text
    assert "| 81.00 (" in text  # the mean of both seeds, with its interval
    assert "(80.00, 82.00) |" in text
    assert "| Backbone | a folder of the author's |" in text
    assert 'load_adapter("hf://me/shapes")' in text
    assert "300 steps on 4,800 samples" in text
    assert 'license: "unknown"' in model_card(folder, "hf://me/shapes")
    for path in folder.parent.glob("seed*/*scores.json"):
        path.unlink()
    assert "It was not tested." in model_card(folder, "hf://me/shapes")


def test_what_is_pushed_comes_back(server: Hub, folder: Path, tmp_path: Path) -> None:
    card = model_card(folder, "hf://me/shapes")
    url = push(folder, "hf://me/shapes", card, private=True)
    assert url == f"{server.url}/me/shapes/commit/{COMMIT}"
    assert server.created[0]["visibility"] == "private"
    assert server.messages[0].startswith("An adapter of depalm")
    assert server.repositories["me/shapes"]["README.md"].decode() == card
    names = [WEIGHTS, RECORD, "test.generate.json"]
    assert set(server.repositories["me/shapes"]) == {*names, "README.md"}
    push(folder, "hf://me/shapes", card)  # a second time is another commit
    for address in ("hf://me/shapes", f"hf://me/shapes@{COMMIT}"):
        found = fetch_adapter(address, tmp_path / "here")
        assert found == tmp_path / "here/resources/adapters/me--shapes" / COMMIT
        for name in names:
            assert (found / name).read_bytes() == (folder / name).read_bytes()


def test_what_cannot_be_shared_or_fetched_is_told(
    server: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SharingError, match="'hf://me' is not hf://owner/name"):
        parsed("hf://me")
    with pytest.raises(DownloadError, match="the hub does not give it"):
        fetch_adapter("hf://me/nothing", tmp_path)
    server.repositories["me/model"] = {WEIGHTS: b"x", "config.json": b"{}"}
    with pytest.raises(SharingError, match="hf://me/model holds no adapter of depalm"):
        fetch_adapter("hf://me/model", tmp_path)
    with pytest.raises(AdapterError, match=r"holds no adapter: it has no adapter\.safetensors"):
        push(tmp_path, "hf://me/x", "card")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(SharingError, match=r"(?s)the Hub does not take it: .*hf auth login"):
        push(folder, "hf://me/shapes", "card")
    (folder / WEIGHTS).write_bytes(b"damaged")
    with pytest.raises(AdapterError, match=r"is not as adapter\.json says"):
        push(folder, "hf://me/shapes", "card")
