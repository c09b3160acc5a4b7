"""Generation on a GPU says what it says on the CPU, whatever the batch."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Literal

import pytest
import torch
from torch import Tensor

from depalm.generation.generate import GenerationError, beam_search, generate, pad_left
from depalm.llms.injection import Injection
from depalm.specs.settings import GenerateSpec
from tests.support.features import RandomFeatures
from tests.support.generation import library_beam_search
from tests.support.gpu import CPU, DEVICE, GPU, llm_on
from tests.support.tiny import FAMILIES, METHODS, random_adapter
from tests.support.training import samples

pytestmark = GPU
SAMPLES = samples()


def texts(
    method: str,
    device: torch.device,
    family: str = "llama",
    dtype: torch.dtype = torch.float32,
    batch_size: int | Literal["auto"] = 8,
    fixed_shapes: bool = False,
) -> list[str]:
    adapter = random_adapter(METHODS[method]).to(device)
    decoding = GenerateSpec(
        beams=3,
        max_new_tokens=8,
        batch_size=batch_size,
        compute="float32",
        fixed_shapes=fixed_shapes,
    )
    return generate(
        llm_on(device, family, dtype), adapter, SAMPLES, RandomFeatures(adapter), decoding
    )


def same(ours: Sequence[object], reference: Sequence[object]) -> float:
    """The share of texts that are the same: rounding may decide between two that are as good."""
    return fmean(a == b for a, b in zip(ours, reference, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_texts_are_those_of_the_cpu_whatever_the_batch(family: str, method: str) -> None:
    ours, reference = texts(method, DEVICE, family), texts(method, CPU, family)
    assert same(ours, reference) > 0.9
    assert same(texts(method, DEVICE, family, batch_size=3), ours) > 0.9
    assert texts(method, DEVICE, family) == ours


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_a_recorded_step_says_the_same(family: str, method: str) -> None:
    ours = texts(method, DEVICE, family, fixed_shapes=True)
    assert same(ours, texts(method, DEVICE, family)) > 0.9
    assert texts(method, DEVICE, family, fixed_shapes=True) == ours


def test_a_batch_that_fits_says_the_same() -> None:
    assert same(texts("qp_l0", DEVICE, batch_size="auto"), texts("qp_l0", DEVICE)) > 0.9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", METHODS)
def test_an_llm_of_half_precision_says_the_same_again(method: str, dtype: torch.dtype) -> None:
    ours = texts(method, DEVICE, dtype=dtype)
    assert any(ours)
    assert texts(method, DEVICE, dtype=dtype) == ours


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("beams", [1, 3])
def test_beam_search_finds_what_the_library_finds(family: str, beams: int) -> None:
    llm = llm_on(DEVICE, family)
    token_ids, valid = (
        part.to(DEVICE) for part in pad_left([[3 + i, 9, *range(4, 4 + i)] for i in range(6)], 2)
    )
    decoding = GenerateSpec(beams=beams, max_new_tokens=12)
    ours = beam_search(llm, token_ids, valid, Injection(), decoding)
    assert ours == library_beam_search(llm, token_ids, valid, beams, 12)


def test_logits_that_are_not_finite_are_an_error_that_names_the_features() -> None:
    class Broken(RandomFeatures):
        def read(self, media: Sequence[str], epoch: int = 0) -> Tensor:
            tokens = super().read(media, epoch)
            tokens[[name == "media-1" for name in media]] = math.nan
            return tokens

    adapter = random_adapter(METHODS["qp_l0"]).to(DEVICE)
    with pytest.raises(GenerationError, match="the features of media-1 are not finite"):
        generate(llm_on(DEVICE), adapter, SAMPLES, Broken(adapter), GenerateSpec(beams=3))
