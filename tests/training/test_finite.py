"""Numbers that are not finite end generation and training; samples and likely cause are named."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from depalm.adapters.adapter import Adapter
from depalm.datasets.manifest import Sample
from depalm.generation.generate import GenerationError, generate
from depalm.llms.base import LLM
from depalm.specs.settings import GenerateSpec
from depalm.training.batches import encode
from depalm.training.loop import train
from depalm.training.schedule import TrainingError
from tests.support.features import RandomFeatures
from tests.support.tiny import METHODS, random_adapter, tiny_llm
from tests.support.training import SETTINGS

# prompts of different lengths, so that generation takes them in another order
SAMPLES = [Sample(f"q{i}", f"media-{i}", "a" * (1 + i * 5 % 7), ["b"]) for i in range(7)]
DECODING = GenerateSpec(beams=2, max_new_tokens=4, batch_size=4)


class Features(RandomFeatures):
    """Features that are infinite or NaN for some media."""

    def __init__(self, adapter: Adapter, bad: dict[str, float]):
        super().__init__(adapter)
        self.bad = bad

    def read(self, media: Sequence[str], epoch: int = 0) -> Tensor:
        tokens = super().read(media, epoch)
        for row, name in enumerate(media):
            if name in self.bad:
                tokens[row, 0, 0, 3] = self.bad[name]
        return tokens


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("method", [name for name in METHODS if name != "blind"])
def test_features_that_are_not_finite_are_named_by_sample(method: str, value: float) -> None:
    llm, adapter = tiny_llm("llama"), random_adapter(METHODS[method])
    healthy = generate(llm, adapter, SAMPLES, Features(adapter, {}), DECODING)
    assert len(healthy) == 7
    with pytest.raises(GenerationError) as raised:
        generate(llm, adapter, SAMPLES, Features(adapter, {"media-4": value}), DECODING)
    message = str(raised.value)
    assert message.startswith("the logits of q4 are not finite")
    assert "the features of media-4 are not finite: extract them again" in message


def test_many_samples_are_counted() -> None:
    llm, adapter = tiny_llm("llama"), random_adapter(METHODS["qp_l0"])
    bad = Features(adapter, {f"media-{i}": torch.nan for i in range(7)})
    with pytest.raises(GenerationError, match=r"the logits of (q\d, ){4}q\d and 2 more are not"):
        generate(llm, adapter, SAMPLES, bad, DECODING.model_copy(update={"batch_size": 7}))


def nan_weight(llm: LLM, adapter: Adapter) -> None:  # noqa: ARG001
    llm.model.model.layers[2].mlp.up_proj.weight.data[0, 0] = torch.nan


def overflown_weight(llm: LLM, adapter: Adapter) -> None:  # noqa: ARG001
    llm.model.model.layers[1].self_attn.q_proj.weight.data[0, 0] = 1e5
    llm.half()


def overflow_inside(llm: LLM, adapter: Adapter) -> None:  # noqa: ARG001
    for layer in llm.layers:
        layer.mlp.down_proj.weight.data *= 1e4
        layer.mlp.up_proj.weight.data *= 1e3
    llm.half()


def nan_in_adapter(llm: LLM, adapter: Adapter) -> None:  # noqa: ARG001
    adapter.prompt.data[0, 0] = torch.nan


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (nan_weight, r"the LLM's model\.layers\.2\.mlp\.up_proj\.weight is not finite in float32"),
        (overflown_weight, r"the LLM's .*layers\.1.*q_proj\.weight is not finite in float16"),
        (overflow_inside, "the LLM overflows in float16: set dtype to bfloat16 or float32"),
        (nan_in_adapter, "the adapter's prompt is not finite: train it again"),
    ],
)
def test_the_likely_cause_is_told(damage: Callable[[LLM, Adapter], None], message: str) -> None:
    llm, adapter = tiny_llm("llama"), random_adapter(METHODS["qp_l0"])
    damage(llm, adapter)
    with pytest.raises(GenerationError, match=rf"the logits of q.* are not finite.*{message}"):
        generate(llm, adapter, SAMPLES, Features(adapter, {}), DECODING)


def test_training_tells_what_is_at_fault_and_of_no_checkpoint_that_is_not_there(
    tmp_path: Path,
) -> None:
    llm, adapter = tiny_llm("llama"), random_adapter(METHODS["qp_l0"])
    data = encode(llm, SAMPLES, 10)
    arguments: tuple[Any, ...] = (
        SETTINGS.model_copy(update={"batch_size": 7}),
        0,
        tmp_path,
        "identity",
    )
    with pytest.raises(TrainingError) as raised:
        train(llm, adapter, data, Features(adapter, {"media-2": torch.nan}), *arguments)
    assert "step 0: loss nan" in str(raised.value)
    assert "the features of media-2 are not finite" in str(raised.value)
    assert "checkpoint" not in str(raised.value)
    nan_weight(llm, adapter)
    with pytest.raises(TrainingError, match=r"step 0: loss nan.*LLM's model\.layers\.2"):
        train(llm, adapter, data, Features(adapter, {}), *arguments)
