"""A generation that was killed goes on from its last batch, and from nothing that is damaged."""

import json
from pathlib import Path

import pytest

from depalm.generation import generate as module
from depalm.generation.generate import generate
from depalm.generation.partial import Partial
from depalm.specs.settings import GenerateSpec
from tests.support.features import RandomFeatures
from tests.support.tiny import tiny_llm
from tests.support.training import Killed, build, samples

IDENTITY = {"llm": {"shape": 4}, "rows": ["a"]}
DECODING = GenerateSpec(beams=2, max_new_tokens=5, batch_size=4)


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def test_texts_come_back(tmp_path: Path) -> None:
    partial = Partial(tmp_path / "p.jsonl", IDENTITY)
    assert partial.texts == {}
    partial.add([2, 0], ["zwei\n", "nül"], 1.5)
    partial.add([1], [""], 0.25)
    again = Partial(tmp_path / "p.jsonl", IDENTITY)
    assert again.texts == {2: "zwei\n", 0: "nül", 1: ""}
    assert again.seconds == 1.75
    again.remove()
    assert not (tmp_path / "p.jsonl").exists()


@pytest.mark.parametrize("cut", [1, 7])
def test_a_cut_line_is_not_used_and_overwritten(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "p.jsonl"
    partial = Partial(path, IDENTITY)
    partial.add([0], ["one"], 1.0)
    partial.add([1], ["two"], 1.0)
    path.write_bytes(path.read_bytes()[:-cut])
    partial = Partial(path, IDENTITY)
    assert partial.texts == {0: "one"}
    partial.add([1], ["two"], 1.0)
    assert Partial(path, IDENTITY).texts == {0: "one", 1: "two"}


def test_a_flipped_byte_ends_what_is_used(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    partial = Partial(path, IDENTITY)
    partial.add([0], ["one"], 1.0)
    partial.add([1], ["two"], 1.0)
    path.write_bytes(path.read_bytes().replace(b"one", b"ome"))
    assert Partial(path, IDENTITY).texts == {}


def test_texts_of_another_identity_are_not_used_and_what_differs_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "p.jsonl"
    Partial(path, IDENTITY).add([0], ["one"], 1.0)
    caplog.set_level("INFO", "depalm")
    other = Partial(path, {**IDENTITY, "llm": {"shape": 5}})
    assert other.texts == {}
    assert "with llm.shape 4, not 5: not used" in caplog.text
    assert len(lines(path)) == 1


def test_a_killed_generation_goes_on_from_its_last_batch_with_the_same_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, adapter, asked = tiny_llm("llama"), build("qp_l0").eval(), samples(30)
    features = RandomFeatures(adapter)
    whole = generate(llm, adapter, asked, features, DECODING)
    calls, beam_search = [0], module.beam_search

    def counted(*arguments: object) -> list[list[int]]:
        calls[0] += 1
        if calls[0] == 7:  # of 8
            raise Killed
        return beam_search(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "beam_search", counted)
    with pytest.raises(Killed):
        generate(llm, adapter, asked, features, DECODING, Partial(tmp_path / "p", IDENTITY))
    assert len(lines(tmp_path / "p")) == 1 + 6
    texts = generate(llm, adapter, asked, features, DECODING, Partial(tmp_path / "p", IDENTITY))
    assert texts == whole
    assert calls[0] == 7 + 2
    assert len({*whole}) > 1
    assert json.loads(lines(tmp_path / "p")[0])[1] == IDENTITY
