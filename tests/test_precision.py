"""Half precision where it is asked for, and batch sizes that fit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from depalm.batch_size import fitting, size_that_fits
from depalm.cache.store import open_folder
from depalm.features.encoder import Encoder
from depalm.features.extract import Extraction, extract
from depalm.files import sha256_file
from depalm.llms.injection import hidden_states
from depalm.precision import autocast, float32_products
from tests.support.features import RandomFeatures
from tests.support.media_files import write_images
from tests.support.tiny import METHODS, random_adapter, tiny_llm
from tests.support.vit import VIT, tiny_vit

HALF = {"bfloat16": 2**-7, "float16": 2**-10}  # the spacing of numbers at 1


def relative(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach(), expected.detach()
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("compute", HALF)
@pytest.mark.parametrize("method", [name for name in METHODS if name != "blind"])
def test_an_adapter_computes_in_half_precision_on_weights_in_float32(
    method: str, compute: str
) -> None:
    llm, adapter = tiny_llm("llama"), random_adapter(METHODS[method])
    features = RandomFeatures(adapter).read(["a", "b"])
    token_ids = torch.tensor([[1, 5, 6, 7], [1, 8, 9, 4]])
    exact = hidden_states(llm, token_ids, adapter(features))
    half = hidden_states(llm, token_ids, adapter(features, compute))
    assert 0 < relative(half, exact) < 8 * HALF[compute]
    half.sum().backward()
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in adapter.parameters() if p.grad is not None} == {torch.float32}


def test_only_half_precision_casts_and_a_processor_has_no_tf32() -> None:
    one = torch.randn(4, 4)
    for compute in ("float32", "tf32"):
        with float32_products(compute, "cpu"), autocast(compute, "cpu"):
            assert (one @ one).dtype == torch.float32
    with autocast("bfloat16", "cpu"):
        assert (one @ one).dtype == torch.bfloat16


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    tiny_vit(tmp_path / "weights")
    names = [f"{i}.png" for i in range(5)]
    write_images(tmp_path, names)
    return {name: sha256_file(tmp_path / name) for name in names}


@pytest.mark.parametrize(
    ("precision", "error"),
    [
        ({"compute": "bfloat16"}, 4 * HALF["bfloat16"]),
        ({"compute": "float16"}, 4 * HALF["float16"]),
        ({"compiled": True}, HALF["float16"]),
    ],
)
def test_tokens_of_another_precision_are_near_and_never_taken_for_the_others(
    tmp_path: Path, files: dict[str, str], precision: dict[str, Any], error: float
) -> None:
    rows, folders = [], []
    for options in ({}, precision):
        encoder = Encoder("vit", VIT, tmp_path / "weights", **options)
        store, settings = tmp_path / "store", Extraction(batch_size=4)
        done = extract(encoder, tmp_path, files, ["cls", "tokens/layer_11"], store, settings, "cpu")
        assert done.forwarded == 5
        cache = open_folder(done.folder, encoder.identity)
        rows.append(cache.read(list(files.values()), [11], cls_only=False).float())
        folders.append(done.folder)
    assert folders[0] != folders[1]
    assert relative(rows[1], rows[0]) < error


def test_a_batch_is_the_largest_power_of_two_that_fits() -> None:
    # 10 fixed, 5 for each sample: 10 + 5 n <= 0.7 * 200 holds up to n = 26
    assert size_that_fits(two=20, four=30, total=200, largest=256) == 16
    assert size_that_fits(two=20, four=30, total=200, largest=8) == 8
    assert size_that_fits(two=190, four=370, total=200, largest=256) == 1
    assert size_that_fits(two=20, four=20, total=200, largest=64) == 64


def test_a_number_is_taken_as_it_is_and_nothing_is_measured_on_a_processor() -> None:
    def work(count: int) -> None:
        raise AssertionError(count)

    assert fitting(12, 256, work, "cpu") == 12
    assert fitting("auto", 256, work, "cpu") == 64
    assert fitting("auto", 32, work, "cpu") == 32
