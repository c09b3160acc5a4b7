"""Every method of config/methods: what is trained, what reaches it, and what does not fit."""

from copy import deepcopy
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor

from depalm.adapters.adapter import Adapter, chosen
from depalm.adapters.errors import AdapterError, ConnectorError
from depalm.adapters.layout import select
from depalm.llms.injection import Injection, hidden_states
from depalm.specs.backbone import BackboneShape
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
from tests.support.training import random_batch

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
    examples, media = random_batch()
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
    examples, media = random_batch()
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
    examples, media = random_batch()
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
