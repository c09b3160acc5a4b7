"""What is tuned beside a connector: biases, norms and LoRA of an LLM, and a backbone."""

from copy import deepcopy

import peft
import pytest
import torch
from torch import nn

from depalm.adapters.adapter import Adapter
from depalm.adapters.errors import AdapterError
from depalm.datasets.manifest import Sample
from depalm.generation.generate import generate
from depalm.llms.base import LLM
from depalm.specs.settings import GenerateSpec
from depalm.training.loop import answer_loss
from tests.support.features import RandomFeatures
from tests.support.tiny import (
    BACKBONE,
    FAMILIES,
    LLM_SHAPE,
    METHODS,
    new_adapter,
    random_adapter,
    tiny_llm,
)
from tests.support.training import random_batch
from tests.support.vit import MODEL


def folded(llm: LLM, adapter: Adapter) -> LLM:
    """A copy of the LLM whose own weights are those that the adapter's tuning stands for."""
    copy = deepcopy(llm)
    tuning = adapter.tuning["llm"]
    with torch.no_grad():
        for key, name in tuning.names.items():
            module, part = copy.body.get_submodule(name), tuning.parts[key]
            scale = 1 + part.scale
            if type(module).__name__ == "Qwen3_5RMSNorm":  # multiplies by 1 + weight
                module.weight.copy_((1 + module.weight) * scale - 1)
            else:
                module.weight *= scale[:, None] if isinstance(module, nn.Linear) else scale
            if part.bias is not None:
                bias = 0 if module.bias is None else module.bias
                module.bias = nn.Parameter(bias * scale + part.bias)
    return copy


@pytest.mark.parametrize("family", FAMILIES)
def test_tuning_is_training_the_weights_and_leaves_the_llm_alone(family: str) -> None:
    llm = tiny_llm(family)
    method = {**METHODS["blind"], "finetune": {"llm": {"linears": True, "norms": True}}}
    adapter = random_adapter(method, llm=llm.body)
    before = {name: value.clone() for name, value in llm.state_dict().items()}
    token_ids = random_batch()[0].token_ids
    with torch.inference_mode():
        plain = llm.model(token_ids).logits
        with adapter.tuned("llm", llm.body):
            tuned = llm.model(token_ids).logits
        expected = folded(llm, adapter).model(token_ids).logits
        torch.testing.assert_close(tuned, expected, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(tuned, plain)
        with pytest.raises(KeyError), adapter.tuned("llm", llm.body):
            raise KeyError
        assert torch.equal(llm.model(token_ids).logits, plain)
    assert llm.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in llm.state_dict().items())
    assert not any(module._forward_hooks for module in llm.modules())


def test_untrained_tuning_changes_nothing() -> None:
    llm = tiny_llm("llama")
    method = {**METHODS["blind"], "finetune": {"llm": {"linears": True, "norms": True}}}
    adapter = new_adapter(method, BACKBONE, LLM_SHAPE, {"llm": llm.body})
    token_ids = random_batch()[0].token_ids
    with torch.inference_mode():
        plain = llm.model(token_ids).logits
        with adapter.tuned("llm", llm.body):
            assert torch.equal(llm.model(token_ids).logits, plain)


@pytest.mark.parametrize(("kind", "count"), [("linears", 7), ("norms", 2)])
def test_the_exact_tensors_of_the_llm_are_tuned(kind: str, count: int) -> None:
    method = {**METHODS["blind"], "finetune": {"llm": {kind: True}}}
    with torch.device("meta"):  # no weights are needed to count what is trained
        llm = tiny_llm("llama")
        adapter = new_adapter(method, BACKBONE, LLM_SHAPE, {"llm": llm.body})
    linears = ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]
    per_layer = {
        "linears": [f"self_attn-{i}" for i in linears[0]] + [f"mlp-{i}" for i in linears[1]],
        "norms": ["input_layernorm", "post_attention_layernorm"],
    }[kind]
    assert len(per_layer) == count
    parts = [f"layers-{layer}-{name}" for layer in range(4) for name in per_layer]
    parts += ["norm"] if kind == "norms" else []
    tensors = ("scale", "bias") if kind == "linears" else ("scale",)  # RMS norms have no bias
    expected = {f"tuning.llm.parts.{part}.{tensor}" for part in parts for tensor in tensors}
    assert set(adapter.state_dict()) == {"prompt", *expected}


def test_generation_is_that_of_the_tuned_llm() -> None:
    llm = tiny_llm("llama")
    method = {**METHODS["qp_l0"], "finetune": {"llm": {"linears": True}}}
    adapter = random_adapter(method, llm=llm.body)
    samples = [Sample(str(i), f"media-{i}", "abc"[i], []) for i in range(3)]
    tuned = generate(
        llm, adapter, samples, RandomFeatures(adapter), GenerateSpec(beams=2, max_new_tokens=6)
    )
    expected_llm = folded(llm, adapter)
    adapter.finetune, adapter.tuning = {}, nn.ModuleDict()
    expected = generate(
        expected_llm,
        adapter,
        samples,
        RandomFeatures(adapter),
        GenerateSpec(beams=2, max_new_tokens=6),
    )
    assert tuned == expected
    assert tuned != generate(
        llm, adapter, samples, RandomFeatures(adapter), GenerateSpec(beams=2, max_new_tokens=6)
    )


def test_a_backbone_is_tuned_by_the_same_block() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    vit = timm.create_model(MODEL, img_size=32, num_classes=0).eval().requires_grad_(False)
    method = {**METHODS["limber_1"], "finetune": {"backbone": {"linears": True, "norms": True}}}
    adapter = random_adapter(method, backbone=vit)
    pixels = torch.randn(1, 3, 32, 32)
    plain = vit(pixels)
    with adapter.tuned("backbone", vit):
        vit(pixels).square().sum().backward()
    for name, value in adapter.tuning["backbone"].named_parameters():
        assert value.grad is not None, name
    assert all(value.grad is None for value in vit.parameters())
    assert torch.equal(vit(pixels), plain)


LORA = {"rank": 3, "alpha": 12.0, "targets": ["q_proj", "down_proj"]}


def with_peft(llm: LLM, adapter: Adapter) -> LLM:
    """A copy of the LLM with peft's LoRA, whose A and B are those of the adapter."""
    copy = deepcopy(llm)
    config = peft.LoraConfig(r=3, lora_alpha=12, target_modules=LORA["targets"], lora_dropout=0.0)
    peft.inject_adapter_in_model(config, copy.body)
    tuning = adapter.tuning["llm"]
    with torch.no_grad():
        for key, part in tuning.loras.items():
            theirs = copy.body.get_submodule(tuning.names[key])
            theirs.lora_A["default"].weight.copy_(part.a)
            theirs.lora_B["default"].weight.copy_(part.b)
    return copy


def test_lora_is_that_of_peft() -> None:
    """Logits and gradients; what is added starts at nothing, and the LLM stays as it is."""
    llm = tiny_llm("llama")
    method = {**METHODS["blind"], "finetune": {"llm": {"lora": LORA}}}
    token_ids = random_batch()[0].token_ids
    plain = llm.model(token_ids).logits
    new = new_adapter(method, BACKBONE, LLM_SHAPE, {"llm": llm.body})
    with torch.inference_mode(), new.tuned("llm", llm.body):
        assert torch.equal(llm.model(token_ids).logits, plain)

    adapter = random_adapter(method, llm=llm.body)
    theirs = with_peft(llm, adapter)
    with adapter.tuned("llm", llm.body):
        found = llm.model(token_ids).logits
    expected = theirs.model(token_ids).logits
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, plain)
    (gradient,) = torch.autograd.grad(
        found.square().mean(), adapter.tuning["llm"].loras["layers-1-mlp-down_proj"].a
    )
    peers = theirs.body.get_submodule("layers.1.mlp.down_proj").lora_A["default"].weight
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.square().mean(), peers)[0])
    assert not any(module._forward_hooks for module in llm.modules())


def test_generation_is_that_of_the_llm_with_lora() -> None:
    llm = tiny_llm("llama")
    method = {**METHODS["qp_inner"], "finetune": {"llm": {"lora": LORA}}}
    adapter = random_adapter(method, llm=llm.body)
    samples = [Sample(str(i), f"media-{i}", "abc"[i], []) for i in range(3)]
    decoding = GenerateSpec(beams=2, max_new_tokens=6)
    tuned = generate(llm, adapter, samples, RandomFeatures(adapter), decoding)
    theirs = with_peft(llm, adapter)
    adapter.finetune, adapter.tuning = {}, nn.ModuleDict()
    assert tuned == generate(theirs, adapter, samples, RandomFeatures(adapter), decoding)
    assert tuned != generate(llm, adapter, samples, RandomFeatures(adapter), decoding)


def test_the_parameters_of_lora_are_counted() -> None:
    with torch.device("meta"):
        llm = tiny_llm("llama")
        method = {**METHODS["blind"], "finetune": {"llm": {"lora": LORA}}}
        adapter = new_adapter(method, BACKBONE, LLM_SHAPE, {"llm": llm.body})
    prompt = adapter.prompt
    assert prompt is not None
    per_layer = 3 * (32 + 32) + 3 * (48 + 32)  # q_proj, down_proj
    assert adapter.trainable_parameters == prompt.numel() + 4 * per_layer


def test_what_lora_asks_for_must_be_there() -> None:
    llm = tiny_llm("llama")
    method = {**METHODS["blind"], "finetune": {"llm": {"lora": {"targets": ["qkv_proj"]}}}}
    with pytest.raises(AdapterError, match="no Linear 'qkv_proj'; it has down_proj, gate_proj, k_"):
        new_adapter(method, BACKBONE, LLM_SHAPE, {"llm": llm.body})


def test_what_is_tuned_must_be_there() -> None:
    method = {**METHODS["blind"], "finetune": {"llm": {"norms": True}}}
    with pytest.raises(AdapterError, match="Linear has no norms to tune"):
        new_adapter(method, BACKBONE, LLM_SHAPE, {"llm": nn.Linear(2, 2)})


def test_a_method_that_tunes_needs_the_model_it_tunes() -> None:
    llm = tiny_llm("llama")
    adapter = new_adapter(
        {**METHODS["blind"], "finetune": {"llm": {"norms": True}}}, BACKBONE, LLM_SHAPE
    )
    examples, _ = random_batch()
    with (
        pytest.raises(AdapterError, match="built without the llm"),
        adapter.tuned("llm", llm.body),
    ):
        answer_loss(llm, adapter, None, examples, 0.0)
