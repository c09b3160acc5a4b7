"""The arithmetic of a run against torch's own count of what it really does, and the parameters
against those of built adapters.
"""

from pathlib import Path

import pytest
import timm
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from depalm.adapters.adapter import Adapter
from depalm.adapters.layout import layout
from depalm.config.experiment import Config
from depalm.config.parts import Parts
from depalm.config.report import trainable_parameters
from depalm.config.schema import load_yaml, validated
from depalm.cost.work import CHAT, VOCABULARY, adapter_work, backbone_work, llm_work
from depalm.llms.chat import Chat
from depalm.llms.decoder import DecoderLLM
from depalm.specs import LLMSpec, MethodSpec, SettingsSpec
from depalm.specs.backbone import BackboneShape
from depalm.training import Batch, answer_loss
from tests.support.specs import llm_spec
from tests.support.tiny import Tokenizer

ROOT = Path(__file__).parents[2]
METHODS = sorted(path.stem for path in (ROOT / "config" / "methods").glob("*.yaml"))
LLM = llm_spec({"family": "llama", "shape": {"layers": 32, "width": 96}})
BACKBONE = BackboneShape(layers=24, tokens=65, width=96)
TEXT, ANSWER, BATCH = 20, 6, 2


def method_of(name: str) -> MethodSpec:
    content = load_yaml(ROOT / "config" / "methods" / f"{name}.yaml")
    kept = {key: value for key, value in content.items() if key not in ("label", "train")}
    connector = kept.get("connector", {})
    if isinstance(connector.get("adapter_dim"), int):
        connector["adapter_dim"] = 64
    return MethodSpec.model_validate(kept)


@pytest.fixture(scope="module")
def llm() -> DecoderLLM:
    torch.manual_seed(0)
    width = LLM.shape.width
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=LLM.shape.layers,
        num_attention_heads=4,
    )
    return DecoderLLM(LlamaForCausalLM(config), Tokenizer())


@pytest.mark.parametrize("name", METHODS)
def test_a_training_step_takes_what_is_counted(llm: DecoderLLM, name: str) -> None:
    assert share_that_is_counted(llm, LLM, name) == pytest.approx(1, abs=0.25)


def test_the_template_of_a_chat_is_counted(llm: DecoderLLM) -> None:
    chat = Chat(front=[9] * CHAT, behind="", end=3)
    chatting = DecoderLLM(llm.model, Tokenizer(), chat=chat)
    spec = LLM.model_copy(update={"chat": True})
    assert share_that_is_counted(chatting, spec, "qp_l0") == pytest.approx(1, abs=0.25)
    assert share_that_is_counted(chatting, LLM, "qp_l0") > 1.25


def share_that_is_counted(llm: DecoderLLM, spec: LLMSpec, name: str) -> float:
    """The operations of a training step, of those that the cost of one counts."""
    method = method_of(name)
    torch.manual_seed(0)
    adapter = Adapter(method, BACKBONE, LLM.shape, {"llm": llm.body}).train()
    features = None
    if adapter.source_layers:
        tokens = 1 if adapter.cls_only else BACKBONE.tokens
        features = torch.randn(BATCH, len(adapter.source_layers), tokens, BACKBONE.width)
    labels = torch.full((BATCH, TEXT), -100)
    labels[:, -ANSWER:] = 5
    batch = Batch([f"{i}" for i in range(BATCH)], torch.full((BATCH, TEXT), 7), labels)
    llm.model.requires_grad_(False)
    steps = 16 if name == "r_rand_l0" else 1  # it draws how many tokens it keeps
    with FlopCounterMode(display=False) as counted, adapter.tuned("llm", llm.body):
        for _ in range(steps):
            answer_loss(llm, adapter, features, batch, 0.0).backward()
    shape = layout(method, BACKBONE, LLM.shape)
    work = adapter_work(method, shape, spec)
    of_llm = llm_work(method, shape, spec, work.tokens, TEXT)
    each = of_llm.forward + of_llm.backward + ANSWER * 2 * of_llm.head
    each += 3 * (work.media + work.position * TEXT)
    return float(counted.get_total_flops() / (steps * BATCH * each))


def test_a_forward_pass_of_a_backbone_takes_what_is_counted() -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        model(torch.zeros(2, 3, 224, 224))
    shape = BackboneShape(layers=12, tokens=197, width=192)
    assert counted.get_total_flops() / (2 * backbone_work(shape)) == pytest.approx(1, abs=0.1)


@pytest.fixture(scope="module")
def paper() -> Config:
    settings = validated(SettingsSpec, load_yaml(ROOT / "config" / "paper.yaml"), "paper.yaml")
    return Config(settings, Parts([ROOT / "config"]))


def test_parameters_are_about_those_of_the_paper(paper: Config) -> None:
    """Of each method in the paper that tunes no frozen model, with each backbone and LLM."""
    seen = set()
    for run in paper.runs:
        plan = paper.plan(run)
        cell = (run.method, run.backbone, run.llm, plan.method.model_dump_json())
        if cell in seen or (real := trainable_parameters(plan)) is None:
            continue
        seen.add(cell)
        counted = adapter_work(plan.method, plan.layout, plan.llm).parameters
        assert counted == pytest.approx(real, rel=0.05), run.path
    assert len(seen) > 50
