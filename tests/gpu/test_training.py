"""Training on a GPU learns what it learns on the CPU, and ends with the same bytes every time."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from depalm.adapters.adapter import Adapter
from depalm.llms.base import LLM
from depalm.llms.decoder import DecoderLLM
from depalm.specs import TrainSpec
from depalm.training.batches import encode
from depalm.training.loop import train
from depalm.training.schedule import TrainingError
from depalm.training.state import Training
from tests.support.features import RandomFeatures
from tests.support.gpu import CPU, DEVICE, GPU, error, llm_on
from tests.support.tiny import METHODS, VOCABULARY, Tokenizer, new_adapter
from tests.support.training import SETTINGS, Killed, build, equal, samples, weights

pytestmark = GPU
SHORT = SETTINGS.model_copy(update={"steps": 4})
TUNED = {**METHODS["qp_l0"], "finetune": {"llm": {"linears": True, "norms": True}}}


def run(
    folder: Path, adapter: Adapter, llm: LLM, settings: TrainSpec = SHORT, **shape: int
) -> Training:
    device = next(llm.model.parameters()).device
    data = encode(llm, samples(), 10)
    features = RandomFeatures(adapter.to(device), **shape)
    return train(llm, adapter, data, features, settings, 0, folder, {"of": "this"})


def losses(folder: Path) -> Tensor:
    lines = (folder / "train.jsonl").read_text().splitlines()
    return torch.tensor([json.loads(line)["loss"] for line in lines])


def without_dropout(part: Any) -> Any:
    """A method, or a part of it, whose training draws nothing on the device."""
    if isinstance(part, dict):
        return {k: 0.0 if k == "dropout" else without_dropout(v) for k, v in part.items()}
    return part


@pytest.mark.parametrize("family", ["llama", "opt"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_as_on_the_cpu(tmp_path: Path, method: str, family: str) -> None:
    trained = {}
    for device in (DEVICE, CPU):
        torch.manual_seed(0)
        adapter = new_adapter(without_dropout(METHODS[method]))
        folder = tmp_path / device.type
        trained[folder.name] = weights(run(folder, adapter, llm_on(device, family)))
    ours, reference = losses(tmp_path / DEVICE.type), losses(tmp_path / "cpu")
    torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-4)
    for name, value in trained["cpu"].items():
        assert error(trained[DEVICE.type][name], value) < 0.01, name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_to_the_same_bytes_again(
    tmp_path: Path, method: str, dtype: str
) -> None:
    trained = []
    for name in ("first", "again"):
        llm = llm_on(DEVICE, dtype=getattr(torch, dtype))
        trained.append(weights(run(tmp_path / name, build(method), llm)))
    assert equal(*trained)
    assert {value.dtype for value in trained[0].values()} == {torch.float32}
    assert losses(tmp_path / "first").isfinite().all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["limber_all", "qp_l0", "qp_inner", "c_attn"])
def test_bytes_are_the_same_again_at_the_lengths_of_real_backbones(
    tmp_path: Path, method: str, dtype: str
) -> None:
    """Where fused attention splits a sequence between blocks, which add in any order."""
    backbone = {"layers": 2, "tokens": 577, "width": 32}  # ViT-L at 336 pixels
    trained = []
    for name in ("first", "again"):
        torch.manual_seed(0)
        adapter = new_adapter(METHODS[method], backbone, {"layers": 4, "width": 256})
        llm = wide_llm(getattr(torch, dtype))
        trained.append(weights(run(tmp_path / name, adapter, llm, tokens=577, width=32)))
    assert equal(*trained)


def wide_llm(dtype: torch.dtype) -> LLM:
    """With heads of width 128, as LLaMA-7B's."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=2,
    )
    llm = DecoderLLM(LlamaForCausalLM(config), Tokenizer())  # type: ignore[arg-type]
    llm.model.to(DEVICE, dtype)
    return llm


@pytest.mark.parametrize("method", ["qp_l0", "r_rand_l0", "tuned"])
def test_a_killed_run_ends_with_the_bytes_of_an_undisturbed_one(
    tmp_path: Path, killed_at: list[int], method: str
) -> None:
    """Dropout on the GPU goes on with the draws that were due."""

    def train_in(name: str) -> Training:
        llm = llm_on(DEVICE)
        torch.manual_seed(0)
        spec = TUNED if method == "tuned" else METHODS[method]
        adapter = new_adapter(spec, models={"llm": llm.body} if method == "tuned" else None)
        return run(tmp_path / name, adapter, llm, SETTINGS)

    whole = train_in("whole")
    killed_at.append(12 + 7)
    with pytest.raises(Killed):
        train_in("killed")
    assert equal(weights(whole), weights(train_in("killed")))
    assert torch.equal(losses(tmp_path / "whole"), losses(tmp_path / "killed"))


def test_a_bfloat16_llm_trains_near_the_float32_one(tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        run(tmp_path / str(dtype), build("qp_l0"), llm_on(DEVICE, dtype=dtype), SETTINGS)
    ours, reference = (losses(tmp_path / str(d)) for d in (torch.bfloat16, torch.float32))
    assert error(ours, reference) < 0.05


def test_a_loss_that_is_not_finite_is_an_error_that_names_the_features(tmp_path: Path) -> None:
    class Broken(RandomFeatures):
        def read(self, media: Sequence[str], epoch: int = 0) -> Tensor:
            return super().read(media, epoch) * math.nan

    llm, adapter = llm_on(DEVICE), build("qp_l0").to(DEVICE)
    data = encode(llm, samples(), 10)
    with pytest.raises(TrainingError, match=r"step 0: loss nan.*the features of"):
        train(llm, adapter, data, Broken(adapter), SHORT, 0, tmp_path, {"of": "this"})
