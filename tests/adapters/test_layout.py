"""What a method reads and where it acts, told by shapes alone."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from depalm.adapters.adapter import Adapter
from depalm.adapters.errors import AdapterError, ConnectorError
from depalm.adapters.injectors import Injector
from depalm.adapters.layout import layout, select_layers
from depalm.adapters.registry import INJECTORS
from depalm.config.schema import check_schema, load_yaml
from depalm.llms.injection import Injection, hidden_states
from depalm.specs import BackboneSpec, LLMSpec, MethodFile
from depalm.specs.method import LayersSpec
from tests.support.features import RandomFeatures
from tests.support.tiny import LAYERS, method_spec, new_adapter, tiny_llm

CONFIG = Path(__file__).parents[2] / "config"


def parts(kind: str) -> list[Any]:
    paths = sorted((CONFIG / f"{kind}s").glob("*.yaml"))
    return [check_schema(load_yaml(path), kind, str(path)) for path in paths]


def test_layers_are_chosen_from_the_end() -> None:
    def chosen(available: int, **layers: Any) -> list[int]:
        return select_layers(available, LayersSpec.model_validate(layers))

    assert chosen(24) == [23]
    assert chosen(32, count=6, end=-4) == [23, 24, 25, 26, 27, 28]
    assert chosen(12, count=3, stride=2, end=8) == [4, 6, 8]
    assert chosen(12, **{"from": 4, "to": -1, "stride": 3}) == [4, 7, 10]
    assert chosen(12, **{"from": -2}) == [10, 11]
    for wrong in ({"count": 25}, {"end": 24}, {"end": -25}, {"count": 4, "stride": 8}):
        with pytest.raises(AdapterError, match="do not fit into 24 layers"):
            chosen(24, **wrong)


@pytest.mark.parametrize("method", parts("method"), ids=lambda method: method.label)
def test_what_has_a_layout_can_be_built(method: MethodFile) -> None:
    """With every shipped backbone and LLM, or is refused by both for the same reason."""
    backbones: list[BackboneSpec] = parts("backbone")
    llms: list[LLMSpec] = parts("llm")
    fits = 0
    for backbone in backbones:
        for llm in llms:
            try:
                expected = layout(method, backbone.shape, llm.shape)
            except (AdapterError, ConnectorError) as error:
                with pytest.raises(type(error)):
                    Adapter(method, backbone.shape, llm.shape)
                continue
            with torch.device("meta"):
                adapter = Adapter(method, backbone.shape, llm.shape)
            assert adapter.source_layers == expected.source_layers
            assert adapter.target_layers == expected.target_layers
            fits += 1
    assert fits > len(backbones)


def test_a_layout_takes_no_torch() -> None:
    """Every job on a cluster reads its configuration anew."""
    code = (
        "import sys, depalm.adapters.layout, depalm.adapters.registry, depalm.llms.registry;"
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class AtTheLast(Injector):
    """At the last target alone, and from there to the end."""

    def __init__(self, spec: Any, targets: list[int], llm: Any, inner: int):
        super().__init__(spec, targets[-1:], llm, inner)
        self.times = spec.model_extra["times"]

    def inject(self, sources: Any) -> Injection:
        return Injection(self.read([self.times * tokens for tokens in sources]))


def test_an_injector_that_is_registered_is_a_place_in_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"at": "last", "targets": {"count": 2}, "times": 3}
    content = {"version": 1, "label": "Last", "inject": place}
    with pytest.raises(Exception, match="unknown value 'last'"):
        check_schema(content, "method", "last.yaml")
    monkeypatch.setitem(INJECTORS, "last", AtTheLast)
    check_schema(content, "method", "last.yaml")
    assert method_spec(content).given()["inject"] == place
    adapter, llm = new_adapter(content), tiny_llm("llama")
    features = RandomFeatures(adapter).read(["a"])
    injection = adapter(features)
    assert list(injection.tokens) == [LAYERS - 1]
    expected = 3 * adapter.connectors[0](features[:, 0].float())
    assert torch.equal(injection.tokens[LAYERS - 1], expected)
    hidden_states(llm, torch.tensor([[1, 5, 6]]), injection).sum().backward()
    assert all(parameter.grad is not None for parameter in adapter.parameters())
