"""LLMs with small weights: what it does to a loss, its gradients, generation and memory."""

import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from depalm.llms.base import LLM, LLMError
from depalm.llms.injection import DecodingState, Injection, hidden_states
from depalm.llms.load import load_llm
from depalm.llms.quantized import quantize
from tests.support.llms import SPEC, llama
from tests.support.specs import llm_spec
from tests.support.tiny import VOCABULARY, WIDTH, tiny_llm

IDS = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))


def small_llm(family: str) -> LLM:
    """Of weights that are not so large that a tiny model magnifies what is rounded."""
    llm = tiny_llm(family)
    for part in llm.layers.modules():
        if isinstance(part, nn.Linear):
            part.weight.data *= 0.3
    return llm


def rounded(llm: LLM, small: LLM) -> LLM:
    """A copy of `llm` with the weights, as float32, that the quantized ones of `small` mean."""
    copy = deepcopy(llm)
    for name, part in copy.layers.named_modules():
        if isinstance(part, nn.Linear):
            weight = small.layers.get_submodule(name).weight
            part.weight.data = (
                dequantize_4bit(weight.data, weight.quant_state)
                if weight.dtype == torch.uint8
                else weight.CB.float() * weight.SCB[:, None] / 127
            )
    return copy


def loss_and_gradient(llm: LLM) -> tuple[Tensor, Tensor]:
    """Of predicting IDS behind visual tokens at two layers; the gradient of these."""
    torch.manual_seed(1)
    visual = torch.randn(2, 5, WIDTH, requires_grad=True)
    hidden = hidden_states(llm, IDS[:, :-1], Injection({0: visual, 2: visual.flip(1)}, last=2))
    loss = cross_entropy(llm.head(hidden).flatten(0, 1), IDS[:, 1:].flatten())
    (gradient,) = torch.autograd.grad(loss, visual)
    return loss.detach(), gradient


# of the norm: int8 rounds what goes into a Linear, too
@pytest.mark.parametrize(("kind", "allowed"), [("int8", 0.03), ("int4", 1e-5)])
@pytest.mark.parametrize("family", ["llama", "opt", "mistral"])
def test_it_is_the_llm_of_rounded_weights(family: str, kind: str, allowed: float) -> None:
    """The loss and the gradient of visual tokens; no other weights get one, and both stay the same
    after a pass without gradients.
    """
    whole, small = small_llm(family), small_llm(family)
    quantize(small, kind, "cpu")
    expected, far = loss_and_gradient(rounded(whole, small)), loss_and_gradient(whole)
    loss, gradient = loss_and_gradient(small)
    assert abs(loss - expected[0]) <= allowed * expected[0]
    assert (gradient - expected[1]).norm() <= allowed * expected[1].norm()
    assert 0 < abs(loss - far[0]) < 0.05 * far[0]
    assert all(part.grad is None for part in small.parameters())
    with torch.no_grad():
        hidden_states(small, IDS, Injection())
    again = loss_and_gradient(small)
    assert (loss.equal(again[0]), gradient.equal(again[1])) == (True, True)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_cached_steps_are_those_of_the_whole_text(kind: str) -> None:
    llm = small_llm("llama")
    quantize(llm, kind, "cpu")
    state = DecodingState()
    with torch.no_grad():
        whole = hidden_states(llm, IDS, Injection())
        parts = [hidden_states(llm, IDS[:, i : i + 1], Injection(), state=state) for i in range(9)]
    assert float((torch.cat(parts, dim=1) - whole).norm() / whole.norm()) < 0.02


@pytest.mark.parametrize(("kind", "bits"), [("int8", 8), ("int4", 4)])
def test_a_loaded_llm_has_small_weights_in_its_layers_alone(
    tmp_path: Path, kind: str, bits: int
) -> None:
    llama(tmp_path / "model")
    spec = llm_spec({**SPEC, "quantize": kind})
    llm = load_llm(spec, tmp_path / "model", "bfloat16", "cpu")
    for layer in llm.layers:
        for part in layer.modules():
            if isinstance(part, nn.Linear):
                stored = part.weight.numel() * part.weight.element_size()
                assert stored * 8 == part.in_features * part.out_features * bits
    assert llm.model.lm_head.weight.dtype == llm.dtype == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in llm.parameters())
    plain = load_llm(llm_spec(SPEC), tmp_path / "model", "bfloat16", "cpu")
    with torch.no_grad():
        found, expected = (one.model(IDS).logits for one in (llm, plain))
    assert not found.equal(expected)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(LLMError, match=r"pip install -c constraints\.txt -e '\.\[quantize\]'"):
        quantize(tiny_llm("llama"), "int8", "cpu")
