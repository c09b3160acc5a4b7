"""Training of a tiny LLM in memory: settings, samples, and what comes out compared."""

from pathlib import Path

import torch

from depalm.adapters.adapter import Adapter
from depalm.datasets.manifest import Sample
from depalm.llms.base import LLM
from depalm.specs import TrainSpec
from depalm.training.batches import IGNORED, Batch, encode
from depalm.training.loop import train
from depalm.training.state import Training
from tests.support.features import RandomFeatures
from tests.support.tiny import BACKBONE, LLM_SHAPE, METHODS, new_adapter

SETTINGS = TrainSpec(
    batch_size=4, lr=5e-3, steps=12, dtype="float32", compute="float32", checkpoint_seconds=0
)


def samples(count: int = 30) -> list[Sample]:
    """Questions of several lengths; the answer depends on the picture alone."""
    return [
        Sample(
            str(i),
            f"media-{i % 6}",
            "what is" + " it" * (i % 4) + "?",
            ["abc"[i % 3] * (1 + i % 3)],
        )
        for i in range(count)
    ]


def build(method: str, seed: int = 0) -> Adapter:
    torch.manual_seed(seed)
    return new_adapter(METHODS[method], BACKBONE, LLM_SHAPE)


def random_batch(count: int = 3) -> tuple[Batch, list[str]]:
    generator = torch.Generator().manual_seed(5)
    token_ids = torch.randint(3, 40, (count, 7), generator=generator)
    labels = token_ids.roll(-1, dims=1)
    labels[:, :2] = IGNORED
    media = [f"media-{i}" for i in range(count)]
    return Batch(media, token_ids, labels), media


def trains_exactly_the_adapter(llm: LLM, method: str, folder: Path) -> None:
    """Every parameter of an adapter of `method`, and none of the LLM."""
    frozen = {name: value.clone() for name, value in llm.state_dict().items()}
    adapter = build(method)
    before = {name: value.clone() for name, value in adapter.state_dict().items()}
    data = encode(llm, samples(), 10)
    train(llm, adapter, data, RandomFeatures(adapter), SETTINGS, 0, folder, {"of": "this"})
    assert all(torch.equal(value, frozen[name]) for name, value in llm.state_dict().items())
    assert not any(parameter.requires_grad for parameter in llm.parameters())
    for name, value in adapter.state_dict().items():
        assert torch.isfinite(value).all(), f"{name} is not finite"
        assert not torch.equal(value, before[name]), f"{name} was not trained"


def weights(training: Training) -> dict[str, torch.Tensor]:
    return training.adapter.state_dict()


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


class Killed(BaseException):
    pass
