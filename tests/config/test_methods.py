"""Methods in the configuration: every YAML, overrides, and what is refused before any job."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from depalm.adapters.adapter import Adapter
from depalm.config.experiment import Config
from depalm.config.load import load_config
from depalm.config.report import trainable_parameters
from depalm.config.run import Run
from depalm.config.schema import ConfigError, check_schema, load_yaml
from depalm.files import write_json
from tests.support.tiny import METHODS

ROOT = Path(__file__).parents[2]
RUN = Run("easy-vqa", "100pct", "dinov2-S", "smollm2-135m", "qp_l0", 0)
MADE_FOR = {"family": "llama", "shape": {"layers": 30, "width": 576}}


def load(method: str = "qp_l0", **settings: Any) -> Config:
    """The demo's configuration with one run of `method` and other `settings`."""
    demo = load_yaml(ROOT / "config" / "demo.yaml")
    demo["grid"] = [
        {
            "datasets": [RUN.dataset],
            "fractions": [RUN.fraction],
            "backbones": [RUN.backbone],
            "llms": [RUN.llm],
            "methods": [method],
            "seeds": [0],
        }
    ]
    return load_config({**demo, **settings}, [ROOT])


def override(method: dict[str, Any], **rule: Any) -> dict[str, Any]:
    return {"overrides": [{"where": {"datasets": [RUN.dataset]}, "method": method, **rule}]}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_fits_the_demos_models(name: str) -> None:
    config = load(name)
    trained = trainable_parameters(config.plan(config.runs[0]))
    assert trained is not None
    assert trained > 0


FULL: dict[str, Any] = {
    "version": 1,
    "label": "everything",
    "source": {"from": 4, "to": -1, "stride": 2},
    "tokens": "all",
    "connector": {
        "shared": False,
        "adapter_dim": 64,
        "resampler": {
            "type": "qpmapper",
            "factor": 4,
            "cls": "duplicate",
            "layers": 1,
            "heads": 4,
            "dropout": 0.2,
            "activation": "relu",
            "norm_first": True,
            "positions": "learned",
        },
        "mapper": {
            "layers": 2,
            "queries": 6,
            "query_per_layer": True,
            "heads": 4,
            "dropout": 0.0,
            "activation": "silu",
            "norm_first": True,
            "positions": "rotary",
        },
        "norm": "layer",
        "mlp_depth": 3,
        "activation": "tanh",
    },
    "inject": {
        "at": "inner",
        "targets": {"count": 5, "stride": 2, "end": -3},
        "keep": True,
        "token_norm": "layer",
        "scale": True,
        "bias": True,
        "gate": True,
    },
    "prompt_tokens": 4,
    "prompt_at": "every_layer",
    "finetune": {"llm": {"linears": True, "norms": True}},
    "train": {"init_from": "results/another"},
}


def test_every_hyper_parameter_can_be_said() -> None:
    check_schema(FULL, "method", "method")
    for resampler in (
        {"type": "avg", "fidelity": "released", "cls": "drop"},
        {"type": "max", "factor": 16},
        {"type": "conv", "cls": "drop"},
        {"type": "random_patch"},
        {"type": "random_subset", "mean": 0.3, "std": 0.0, "smallest": 0.1, "largest": 0.9},
    ):
        method = deepcopy(FULL)
        method["connector"]["resampler"] = resampler
        check_schema(method, "method", "method")


def test_a_method_of_everything_is_built(tmp_path: Path) -> None:
    parts = tmp_path / "config"
    (parts / "methods").mkdir(parents=True)
    for kind in ("backbones", "datasets", "llms"):
        (parts / kind).symlink_to(ROOT / "config" / kind)
    (parts / "methods" / "everything.yaml").write_text(yaml.safe_dump(FULL))
    config = load("everything", parts=[str(parts)], overrides=[])
    plan = config.plan(config.runs[0])
    assert plan.layout.source_layers == [4, 6, 8, 10]
    assert plan.layout.target_layers == [19, 21, 23, 25, 27]
    adapter = Adapter(plan.method, plan.backbone.shape, plan.llm.shape)
    assert len(adapter.connectors) == 4
    assert len(adapter.scales) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inject": {"at": "l0", "targets": {"count": 2}}}, "unknown key 'targets'"),
        ({"inject": {"at": "cross_attention", "scale": True}}, "unknown key 'scale'"),
        ({"inject": {"at": "iner"}}, "unknown value .*; did you mean 'inner'"),
        ({"inject": {"at": "none"}}, "source: does not apply to a method that injects nothing"),
        ({"source": {"count": 2, "from": 1}}, "give either count and end, or from and to"),
        ({"source": {"to": 2}}, "to stands beside from"),
        ({"source": {"count": 0}}, "0 must be greater than or equal"),
        ({"connector": {"resampler": {"type": "avg", "layers": 2}}}, "unknown key 'layers'"),
        ({"connector": {"resampler": {"type": "conv", "cls": "duplicate"}}}, "'duplicate'"),
        ({"connector": {"resampler": {"type": "average"}}}, "unknown value 'average'"),
        (
            {"connector": {"mapper": {"layers": 1, "queries": 0}}},
            "0 must be greater than or equal",
        ),
        ({"connector": {"mapper": {"layers": 1, "query": 4}}}, "did you mean 'queries'"),
        ({"finetune": {"llm": {"bias": True}}}, "unknown key 'bias'"),
        ({"fine_tune": {}}, "unknown key 'fine_tune'; did you mean 'finetune'"),
    ],
)
def test_what_a_method_cannot_say_is_an_error(change: dict[str, Any], message: str) -> None:
    method = {"version": 1, "label": "x", "source": {"count": 1}, "inject": {"at": "l0"}, **change}
    with pytest.raises(ConfigError, match=message):
        check_schema(method, "method", "method")


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("qp_l0", {"source": {"end": 12}}, "do not fit into 12 layers"),
        ("qp_inner", {"inject": {"targets": {"count": 31}}}, "do not fit into 30 layers"),
        ("qp_l0", {"connector": {"adapter_dim": 100}}, "100 is not divisible by its 8 heads"),
        (
            "r_avgpool_l0",
            {"connector": {"resampler": {"factor": 9}}},
            "8x8 .* groups of 3x3",
        ),
        (
            "qp_l0",
            {"connector": {"mapper": {"queries": 0}}},
            "0 must be greater than or equal",
        ),
        ("qp_l0", {"conector": {}}, "unknown key 'conector'; did you mean 'connector'"),
        ("blind", {"prompt_tokens": 0}, "nothing to train"),
        ("qp_l0", {"finetune": {"backbone": {"linears": True}}}, "cache holds those of the frozen"),
        ("qp_l0", {"train": {"lr": 1.0}}, "overrides.0.method: train cannot be overridden"),
    ],
)
def test_what_does_not_fit_is_an_error_of_the_configuration(
    method: str, change: dict[str, Any], message: str
) -> None:
    load(method)
    with pytest.raises(ConfigError, match=message):
        load(method, **override(change))


TUNED = {"finetune": {"backbone": {"linears": True}}}


def test_a_backbone_in_the_loop_can_be_tuned_and_needs_no_cache() -> None:
    config = load("qp_inner", **override(TUNED, features="online"))
    assert config.plan(RUN).online
    assert config.plan(RUN).arrays == []
    assert load("qp_l0", features="online", **override(TUNED)).plan(RUN).online
    back = override({}, features="cached")
    assert not load("qp_l0", features="online", **back).plan(RUN).online
    with pytest.raises(ConfigError, match="set `features: online`"):
        load("qp_l0", features="online", **override(TUNED, features="cached"))
    with pytest.raises(ConfigError, match="tunes a backbone that it does not read"):
        load("blind", features="online", **override(TUNED))
    with pytest.raises(
        ConfigError, match=r"features: unknown value 'onlin'; did you mean 'online'"
    ):
        load(features="onlin")


def test_cached_layers_are_those_that_the_methods_read() -> None:
    config = load("qp_inner")
    assert config.plan(replace(RUN, method="qp_inner")).layers == "8-9-10-11"
    assert load("epalm").plan(replace(RUN, method="epalm")).layers == "cls"


def test_a_checkpoint_is_tested_and_not_trained(tmp_path: Path) -> None:
    rule = override({}, checkpoint=str(tmp_path))
    assert load().plan(RUN).checkpoint is None
    with pytest.raises(ConfigError, match=r"has no adapter\.safetensors"):
        load(**rule)
    (tmp_path / "adapter.safetensors").touch()
    plain = load(overrides=[]).plan(RUN).method.given()
    method = {key: value for key, value in plain.items() if key != "version"}
    backbone = {"shape": {"layers": 12, "tokens": 65, "width": 384}}
    record = {"method": method, "backbone": backbone, "llm": MADE_FOR}
    write_json(tmp_path / "adapter.json", record)
    assert load(**rule).plan(RUN).checkpoint == str(tmp_path)
    with pytest.raises(ConfigError, match=r"another method.*connector"):
        load(**override({"connector": {"adapter_dim": 64}}, checkpoint=str(tmp_path)))
    write_json(tmp_path / "adapter.json", {**record, "llm": {**MADE_FOR, "family": "opt"}})
    with pytest.raises(ConfigError, match=r"another llm.*its family is opt, not llama"):
        load(**rule)


def test_seeds_can_be_overridden_alone() -> None:
    rule = {"where": {"seeds": [1]}, "train": {"init_from": "results/first"}}
    config = load(overrides=[rule])
    assert config.plan(RUN).train.init_from is None
    other = Run(**{**vars(RUN), "seed": 1})
    assert config.plan(other).train.init_from == "results/first"
