"""Several texts behind one image: the same loss and gradient as each alone."""

from itertools import chain
from pathlib import Path

import pytest
import torch

from depalm.datasets.manifest import Sample
from depalm.specs import TrainSpec
from depalm.training.batches import collate, encode, epoch_batches
from depalm.training.loop import answer_loss, train
from depalm.training.schedule import TrainingError
from tests.support.features import RandomFeatures
from tests.support.tiny import METHODS, SEVERAL, random_adapter, tiny_llm

QUESTIONS = [
    Sample("q0", "x", "a?", ["b"]),
    Sample("q1", "y", "cc?", ["dd", "e"]),
    Sample("q2", "x", "", ["fg"]),
    Sample("q3", "x", "hhh", ["i", "j"]),
    Sample("q4", "z", "k", ["lm"]),
]
CAPTIONS = [Sample(str(i), f"m{i}", "", ["a", "bb", "ccc", "dd", "e"]) for i in range(7)]


@pytest.mark.parametrize("family", SEVERAL)
@pytest.mark.parametrize("method", METHODS)
def test_the_loss_and_its_gradient_are_those_of_the_texts_alone(family: str, method: str) -> None:
    llm, adapter = tiny_llm(family), random_adapter(METHODS[method])
    apart, shared = encode(llm, QUESTIONS, 10), encode(llm, QUESTIONS, 10, texts_per_image=3)
    found = []
    for data, rows in (
        (apart, [[(0, 0)], [(2, 0)], [(3, 1)], [(1, 1)], [(4, 0)]]),
        (shared, [[(0, 0), (2, 0), (3, 1)], [(1, 1)], [(4, 0)]]),
    ):
        batch = collate(data, rows, padding=0)
        assert batch.samples == 5
        features = None if method == "blind" else RandomFeatures(adapter).read(batch.media)
        adapter.zero_grad()
        loss = answer_loss(llm, adapter, features, batch, 0.0)
        loss.backward()
        gradients = [p.grad.clone() for p in adapter.parameters() if p.grad is not None]
        found.append((loss.detach(), gradients))
    torch.testing.assert_close(found[0][0], found[1][0])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_an_llm_with_recurrent_layers_takes_one_text_of_an_image() -> None:
    llm = tiny_llm("qwen3_5_text")
    assert encode(llm, QUESTIONS, 10).media == ["x", "y", "x", "x", "z"]
    with pytest.raises(TrainingError, match=r"qwen3_5_text has recurrent .*texts_per_image to 1"):
        encode(llm, QUESTIONS, 10, texts_per_image=3)


def test_questions_of_an_image_are_dealt_anew_and_each_is_asked_once() -> None:
    many = [Sample(str(i), f"m{i % 5}", "a", ["b", "cc"]) for i in range(33)]  # 7, 7, 7, 6, 6
    data = encode(tiny_llm("llama"), many, 10, texts_per_image=3)
    assert len(data) == 3 + 3 + 3 + 2 + 2
    epochs = []
    for epoch in range(2):
        rows = list(chain(*epoch_batches(data, 4, 0, epoch)))
        assert len(rows) == len(data)
        assert max(map(len, rows)) == 3
        for row in rows:
            assert len({data.media[sample] for sample, _ in row}) == 1
        assert sorted(sample for sample, _ in chain(*rows)) == list(range(33))
        epochs.append({frozenset(sample for sample, _ in row) for row in rows})
    assert epochs[0] != epochs[1]
    assert epoch_batches(data, 4, 0, 0) == epoch_batches(data, 4, 0, 0)


def test_captions_of_an_image_are_different_ones() -> None:
    data = encode(tiny_llm("llama"), CAPTIONS, 10, texts_per_image=3)
    assert len(data) == 7
    rows = list(chain(*epoch_batches(data, 4, 0, 0)))
    assert sorted({sample for sample, _ in chain(*rows)}) == list(range(7))
    for row in rows:
        assert len({sample for sample, _ in row}) == 1
        assert len({reference for _, reference in row}) == 3
    assert len({frozenset(reference for _, reference in row) for row in rows}) > 1


def test_training_counts_images_in_batches_and_texts_as_samples(tmp_path: Path) -> None:
    llm, adapter = tiny_llm("llama"), random_adapter(METHODS["qp_l0"])
    data = encode(llm, CAPTIONS, 10, texts_per_image=4)
    settings = TrainSpec(batch_size=3, epochs=2, lr=1e-3, texts_per_image=4)
    done = train(llm, adapter, data, RandomFeatures(adapter), settings, 0, tmp_path, "identity")
    assert (done.step, done.samples) == (6, 2 * 7 * 4)
