"""On a GPU the pipeline computes what it computes on the CPU, and the same bytes every time.

`DEPALM_GPU_TESTS=cpu` runs them on the CPU, to try the tests themselves.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from depalm.adapters.adapter import Adapter
from depalm.backbones.load import load_backbone
from depalm.cache.reader import TokenCache
from depalm.features.extract import Extraction, extract
from depalm.features.online import Media, online_features
from depalm.files import sha256_tree
from depalm.generation.generate import generate
from depalm.llms.base import LLM
from depalm.provenance import choose_device, device_name
from depalm.specs import TrainSpec
from depalm.specs.settings import GenerateSpec
from depalm.training.batches import encode
from depalm.training.loop import train
from depalm.training.state import Training
from tests.support.features import RandomFeatures
from tests.support.tiny import FAMILIES, LLM_SHAPE, METHODS, new_adapter, random_adapter, tiny_llm
from tests.support.training import SETTINGS, Killed, build, equal, samples, weights
from tests.support.vit import SPEC, VIT, tiny_vit

DEVICE = torch.device(os.environ.get("DEPALM_GPU_TESTS", "cuda"))
MEDIA = [f"images/{i}.png" for i in range(7)]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="this machine has no GPU"
    ),
]


class OnDevice(RandomFeatures):
    """The same features as on the CPU, where the run is."""

    def __init__(self, adapter: Adapter):
        super().__init__(adapter)
        self.device = next(adapter.parameters()).device

    def read(self, media: Sequence[str], epoch: int = 0) -> Tensor:
        return super().read(media, epoch).to(self.device)


def llm_on(device: torch.device, family: str = "llama") -> LLM:
    llm = tiny_llm(family)
    llm.model.to(device)
    return llm


def run(
    folder: Path, method: str, device: torch.device, settings: TrainSpec = SETTINGS
) -> Training:
    llm, adapter = llm_on(device), build(method).to(device)
    llm.model.to(getattr(torch, settings.dtype))
    data = encode(llm, samples(), 10)
    return train(llm, adapter, data, OnDevice(adapter), settings, 0, folder, "identity")


def losses(folder: Path) -> Tensor:
    lines = (folder / "train.jsonl").read_text().splitlines()
    return torch.tensor([json.loads(line)["loss"] for line in lines])


def test_auto_is_the_gpu() -> None:
    assert choose_device("auto").type == "cuda" or DEVICE.type == "cpu"
    assert device_name(DEVICE)


def test_training_is_that_of_the_cpu(tmp_path: Path) -> None:
    """By a method without dropout, whose draws differ between devices."""
    here = run(tmp_path / "gpu", "limber_1", DEVICE)
    there = run(tmp_path / "cpu", "limber_1", torch.device("cpu"))
    torch.testing.assert_close(
        losses(tmp_path / "gpu"), losses(tmp_path / "cpu"), rtol=1e-3, atol=1e-4
    )
    assert losses(tmp_path / "gpu")[-1] < losses(tmp_path / "gpu")[0]
    for name, value in weights(here).items():
        expected = weights(there)[name]
        torch.testing.assert_close(value.cpu(), expected, rtol=1e-2, atol=1e-3, msg=name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_to_the_same_bytes_again(
    tmp_path: Path, method: str, dtype: str
) -> None:
    settings = SETTINGS.model_copy(update={"steps": 4, "dtype": dtype})
    first = run(tmp_path / "first", method, DEVICE, settings)
    again = run(tmp_path / "again", method, DEVICE, settings)
    assert equal(weights(first), weights(again))
    assert losses(tmp_path / "first").isfinite().all()


def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path, killed_at: list[int]) -> None:
    whole = run(tmp_path / "whole", "qp_l0", DEVICE)
    killed_at.append(12 + 7)
    with pytest.raises(Killed):
        run(tmp_path / "killed", "qp_l0", DEVICE)
    assert equal(weights(whole), weights(run(tmp_path / "killed", "qp_l0", DEVICE)))
    assert torch.equal(losses(tmp_path / "whole"), losses(tmp_path / "killed"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_texts_are_those_of_the_cpu_whatever_the_batch(family: str, method: str) -> None:
    texts = {}
    for device, size in ((DEVICE, 8), (DEVICE, 3), (torch.device("cpu"), 8)):
        llm = llm_on(device, family)
        adapter = random_adapter(METHODS[method]).to(device)
        decoding = GenerateSpec(beams=3, max_new_tokens=8, batch_size=size)
        texts[device, size] = generate(llm, adapter, samples(), OnDevice(adapter), decoding)
    assert texts[DEVICE, 8] == texts[DEVICE, 3] == texts[torch.device("cpu"), 8]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    tiny_vit(tmp_path / "weights")
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for name in MEDIA:
        pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


def test_extraction_is_that_of_the_cpu_and_the_same_again(data: Path) -> None:
    paths: dict[str, Any] = {}
    for name, device in (("gpu", DEVICE), ("again", DEVICE), ("cpu", torch.device("cpu"))):
        paths[name] = data / f"{name}.tar"
        settings = Extraction(batch_size=3)
        extract(VIT, data / "weights", data, MEDIA, [9, 11], paths[name], settings, device)
    assert sha256_tree(paths["gpu"]) == sha256_tree(paths["again"])
    here, there = (TokenCache([paths[name]], {}) for name in ("gpu", "cpu"))
    for cls_only in (True, False):
        tokens = here.read(MEDIA, [9, 11], cls_only).float()
        expected = there.read(MEDIA, [9, 11], cls_only).float()
        torch.testing.assert_close(tokens, expected, atol=4e-3, rtol=4e-3)


def test_features_online_are_those_of_the_cpu(data: Path) -> None:
    read = {}
    for device in (DEVICE, torch.device("cpu")):
        model = load_backbone(VIT, data / "weights").to(device)
        adapter = new_adapter(METHODS["qp_l0"], SPEC["shape"], LLM_SHAPE).to(device)
        with online_features(adapter, model, VIT, Media(data), MEDIA, device) as features:
            tokens = features.read(MEDIA)
        assert tokens.device.type == device.type
        read[device] = tokens.cpu()
    torch.testing.assert_close(read[DEVICE], read[torch.device("cpu")], atol=1e-3, rtol=1e-3)
