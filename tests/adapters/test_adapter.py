"""Every method of config/methods: what is trained, what reaches it, and what does not fit."""

from copy import deepcopy
from itertools import chain
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from depalm.adapters.adapter import Adapter, chosen
from depalm.adapters.errors import AdapterError, ConnectorError
from depalm.adapters.layout import select
from depalm.datasets.manifest import Sample
from depalm.generation.generate import generate
from depalm.llms.base import LLM
from depalm.llms.injection import Injection, hidden_states
from depalm.specs.backbone import BackboneShape
from depalm.specs.settings import GenerateSpec
from depalm.training.batches import IGNORED, Batch
from depalm.training.loop import answer_loss
from tests.support.features import RandomFeatures
from tests.support.tiny import (
    BACKBONE,
    FAMILIES,
    LLM_SHAPE,
    METHODS,
    WIDTH,
    method_spec,
    new_adapter,
    random_adapter,
    tiny,
    tiny_llm,
)
from tests.support.vit import MODEL

CONNECTOR = "connectors.0."


def affine(name: str) -> set[str]:
    return {f"{name}.weight", f"{name}.bias"}


def mapper(name: str, layers: int, queries: bool = True) -> set[str]:
    parts = (
        "attention_in attention_out attention_norm feed_forward_norm feed_forward.0 feed_forward.3"
    )
    inside = {
        tensor
        for layer in range(layers)
        for part in parts.split()
        for tensor in affine(f"{name}.layers.{layer}.{part}")
    }
    return inside | ({f"{name}.queries"} if queries else set())


def scales(*parts: str) -> set[str]:
    return {f"scales.{target}.{part}" for target in range(2) for part in parts}


PROJECT_IN, PROJECT_OUT = (affine(f"{CONNECTOR}project_{way}") for way in ("in", "out"))
TOKEN_SCALE = scales("norm.weight", "scale", "bias")
RESAMPLED = {*PROJECT_OUT, f"{CONNECTOR}norm.weight", "prompt"}
QP = {*PROJECT_IN, *mapper(f"{CONNECTOR}mapper", 2), *PROJECT_OUT}
NAMES: dict[str, set[str]] = {
    "blind": {"prompt"},
    "limber_1": PROJECT_OUT,
    "limber_all": PROJECT_OUT,
    "mapl": QP,
    "epalm": {*PROJECT_OUT, *TOKEN_SCALE, "prompt"},
    "epalm_opt": {*PROJECT_OUT, "prompt"},
    "qp_l0": {*QP, "prompt"},
    "qp_inner": {*QP, *TOKEN_SCALE, "prompt"},
    "r_avgpool_l0": {*PROJECT_IN, *RESAMPLED},
    "r_linear_l0": {*PROJECT_IN, *affine(f"{CONNECTOR}resampler.linear"), *RESAMPLED},
    "r_qpmapper_l0": {*PROJECT_IN, *mapper(f"{CONNECTOR}resampler.mapper", 2), *RESAMPLED},
    "r_rand_l0": RESAMPLED,
    "c_attn": {
        *PROJECT_IN,
        *mapper(f"{CONNECTOR}mapper", 1, queries=False),
        *PROJECT_OUT,
        *chain(*(affine(f"cross_attention.query_in.{i}") for i in (0, 2))),
        *chain(*(affine(f"cross_attention.{i}") for i in ("query", "key", "value", "project_out"))),
        *(f"cross_attention.{i}" for i in ("query_norm.weight", "norm.weight", "gate")),
        "prompt",
    },
}


def batch(count: int = 3) -> tuple[Batch, list[str]]:
    generator = torch.Generator().manual_seed(5)
    token_ids = torch.randint(3, 40, (count, 7), generator=generator)
    labels = token_ids.roll(-1, dims=1)
    labels[:, :2] = IGNORED
    media = [f"media-{i}" for i in range(count)]
    return Batch(media, token_ids, labels), media


def features_of(adapter: Adapter, media: list[str]) -> Tensor | None:
    if not adapter.source_layers:
        return None
    return RandomFeatures(adapter).read(media)


@pytest.mark.parametrize("method", METHODS)
def test_the_exact_tensors_are_trained_and_saved(method: str) -> None:
    adapter = new_adapter(METHODS[method], BACKBONE, LLM_SHAPE)
    trained = {name for name, value in adapter.named_parameters() if value.requires_grad}
    assert trained == NAMES[method]
    assert adapter.state_dict().keys() == NAMES[method]
    assert all(value.dtype == torch.float32 for value in adapter.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("finetune", [{}, {"llm": {"linears": True, "norms": True}}])
def test_gradients_reach_what_is_trained_and_nothing_frozen(
    family: str, method: str, finetune: dict[str, Any]
) -> None:
    llm = tiny_llm(family)
    chosen = {**METHODS[method], "finetune": finetune, "prompt_at": "every_layer"}
    adapter = random_adapter(chosen, llm=llm.body).train()
    examples, media = batch()
    with adapter.tuned("llm", llm.body):
        answer_loss(llm, adapter, features_of(adapter, media), examples, 0.0).backward()
    for name, value in adapter.named_parameters():
        assert value.grad is not None, name
        # a bias on every key changes no attention weight, so its gradient is zero but for rounding
        assert name.endswith(("key.bias", "k_proj.bias")) or value.grad.abs().max() > 1e-7, name
    assert all(value.grad is None for value in llm.parameters())
    assert not any(value.requires_grad for value in llm.parameters())


@pytest.mark.parametrize("method", [name for name in METHODS if name != "blind"])
@pytest.mark.parametrize("shared", [True, False])
def test_a_connector_runs_once_for_each_source(method: str, shared: bool) -> None:
    connector = {**METHODS[method].get("connector", {}), "shared": shared}
    adapter = random_adapter({**METHODS[method], "connector": connector})
    calls: list[Tensor] = []
    for part in adapter.connectors:
        part.register_forward_hook(lambda _, inputs, __: calls.append(inputs[0]))
    injection = adapter(features_of(adapter, ["a", "b"]))
    assert len(calls) == len(adapter.source_layers)
    assert len(injection.tokens or injection.cross) == len(adapter.target_layers)


def test_more_targets_than_sources_cost_no_more_calls() -> None:
    method = {**METHODS["c_attn"], "source": {"count": 2}}
    method["inject"] = {**method["inject"], "targets": {"count": 4}}
    adapter = random_adapter(method)
    calls = []
    adapter.connectors[0].register_forward_hook(lambda *_: calls.append("connector"))
    adapter.cross_attention.key.register_forward_hook(lambda *_: calls.append("key"))
    injection = adapter(features_of(adapter, ["a"]))
    assert calls == ["connector"] * 2 + ["key"] * 2
    assert injection.cross[0] is injection.cross[1]
    assert injection.cross[1] is not injection.cross[2]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_a_future_token_changes_nothing_before_it(family: str, method: str) -> None:
    llm, adapter = tiny_llm(family), random_adapter(METHODS[method])
    examples, media = batch()
    injection = adapter(features_of(adapter, media))
    changed = examples.token_ids.clone()
    changed[:, 4] = (changed[:, 4] - 2) % 30 + 3
    before = hidden_states(llm, examples.token_ids, injection)
    after = hidden_states(llm, changed, injection)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_an_untrained_c_attn_without_prompt_is_the_plain_llm() -> None:
    llm = tiny_llm("llama")
    adapter = new_adapter({**METHODS["c_attn"], "prompt_tokens": 0}, BACKBONE, LLM_SHAPE).eval()
    examples, media = batch()
    with torch.inference_mode():
        injected = hidden_states(llm, examples.token_ids, adapter(features_of(adapter, media)))
        plain = hidden_states(llm, examples.token_ids, Injection())
    assert torch.equal(injected, plain)


# tokens that a method reads


READS = {"inject": {"at": "l0"}}


def test_merged_layers_are_one_source() -> None:
    features = torch.randn(2, 2, 5, 8)
    shapes = {"mean": (2, 5, 8), "concat": (2, 5, 16)}
    for merge, shape in shapes.items():
        method = method_spec({**READS, "merge": merge, "source": {"count": 2}})
        sources = select(method, BackboneShape.model_validate(BACKBONE))
        (tokens,) = chosen(sources, features)
        assert tokens.shape == shape
        assert (sources.count, sources.tokens, sources.width) == (1, 5, shape[2])
        adapter = random_adapter({**METHODS["qp_l0"], "merge": merge, "source": {"count": 2}})
        assert adapter(features).tokens[0].shape == (2, 3, WIDTH)


def test_patches_go_without_cls() -> None:
    method = method_spec({**READS, "tokens": "patches"})
    sources = select(method, BackboneShape.model_validate(BACKBONE))
    (tokens,) = chosen(sources, torch.randn(2, 1, 5, 8))
    assert tokens.shape == (2, 4, 8)


def test_every_source_layer_may_have_queries_of_its_own() -> None:
    method = deepcopy(METHODS["qp_inner"])
    method["connector"]["mapper"]["query_per_layer"] = True
    adapter = random_adapter(method)
    assert adapter.get_parameter("connectors.0.mapper.queries").shape[0] == 2
    method["connector"]["shared"] = False
    alone = random_adapter(method)
    assert alone.get_parameter("connectors.1.mapper.queries").shape[0] == 1


# tuning


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
    token_ids = batch()[0].token_ids
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
    token_ids = batch()[0].token_ids
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
    token_ids = batch()[0].token_ids
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
    examples, _ = batch()
    with (
        pytest.raises(AdapterError, match="built without the llm"),
        adapter.tuned("llm", llm.body),
    ):
        answer_loss(llm, adapter, None, examples, 0.0)


# what does not fit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": {"count": 3}}, "do not fit into 2 layers"),
        ({"source": {"end": -3}}, "do not fit into 2 layers"),
        ({"inject": {"at": "inner", "targets": {"count": 5}}}, "do not fit into 4 layers"),
        ({"inject": {"at": "inner", "targets": {"from": 4}}}, "do not fit into 4 layers"),
        ({"source": {"count": 2}}, "2 source layers, but 1 target layers"),
        ({"connector": {"adapter_dim": 12, "mapper": {"layers": 1}}}, "12 is not divisible by"),
        ({"connector": {"resampler": {"type": "avg", "factor": 9}}}, "not divisible by groups"),
        ({"inject": {"at": "cross_attention", "width": 12}}, "12 is not divisible by 8 heads"),
        ({"tokens": "cls", "connector": {"resampler": {"type": "avg"}}}, "no patches"),
        ({"tokens": "patches", "connector": {"resampler": {"type": "avg"}}}, "first token for CLS"),
        (
            {"connector": {"mapper": {"layers": 1, "queries": None, "query_per_layer": True}}},
            "query_per_layer asks for queries",
        ),
        (
            {
                "source": {"count": 2},
                "connector": {"resampler": {"type": "random_subset"}},
                "inject": {"at": "inner", "targets": {"count": 2}},
            },
            "equally many tokens",
        ),
        (
            {
                "connector": {
                    "resampler": {"type": "random_subset"},
                    "mapper": {"layers": 1, "positions": "learned"},
                }
            },
            "fixed places",
        ),
    ],
)
def test_a_method_that_does_not_fit_is_an_error(change: dict[str, Any], message: str) -> None:
    method = {"inject": {"at": "l0"}, **change}
    with pytest.raises((AdapterError, ConnectorError), match=message):
        new_adapter(method, BACKBONE, LLM_SHAPE)


def test_a_method_without_anything_to_train_is_an_error() -> None:
    with pytest.raises(AdapterError, match="nothing to train"):
        new_adapter({"inject": {"at": "none"}}, BACKBONE, LLM_SHAPE)


def test_patches_without_a_backbone_that_has_them_are_an_error() -> None:
    with pytest.raises(AdapterError, match="CLS token alone"):
        new_adapter(
            {**METHODS["limber_all"], "tokens": "patches"}, {**BACKBONE, "tokens": 1}, LLM_SHAPE
        )


def test_tiny_methods_are_those_of_the_configuration() -> None:
    assert METHODS.keys() == NAMES.keys()
    assert tiny({"source": {"count": 6}, "tokens": "cls"}) == {
        "source": {"count": 2},
        "tokens": "cls",
    }
