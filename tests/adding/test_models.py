"""Files of LLMs and backbones, as `depalm add` writes them: each loads what it is about."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from transformers import BloomConfig, BloomForCausalLM

from depalm.adding import AddError, Part, backbone_part, llm_part
from depalm.backbones.load import load_backbone
from depalm.cli import main
from depalm.files import read_json, write_json
from depalm.llms.load import load_llm
from tests.support.chats import CHATML, write
from tests.support.encoders import tiny_clip, tiny_whisper
from tests.support.hub import COMMIT, hub
from tests.support.llms import llama
from tests.support.specs import backbone_spec, llm_spec


def content(part: Part) -> Any:
    return yaml.safe_load(part.text())


def test_an_llm_in_a_folder(tmp_path: Path) -> None:
    llama(tmp_path / "My Model")
    part = llm_part(str(tmp_path / "My Model"))
    assert part.name == "my_model"
    spec = llm_spec(content(part))
    assert (spec.family, spec.chat, spec.shape.given()) == (
        "llama",
        False,
        {"layers": 3, "width": 32},
    )
    assert load_llm(spec, str(spec.path), "float32", "cpu").start == [1]


def test_what_the_tokenizer_says_is_in_the_file(tmp_path: Path) -> None:
    """A template makes a chat, unless one does not want it; no BOS needs an answer_prompt."""
    write(tmp_path / "model", CHATML, bos=False)
    chat, plain = (content(llm_part(str(tmp_path / "model"), chat=said)) for said in (None, False))
    assert (chat["chat"], "answer_prompt" in chat) == (True, False)
    assert ("chat" in plain, plain["answer_prompt"]) == (False, "Answer:")
    write(tmp_path / "other", None)
    with pytest.raises(AddError, match="there is none: name a model that was made for chats"):
        llm_part(str(tmp_path / "other"), chat=True)


def test_an_llm_that_cannot_be_run_is_refused(tmp_path: Path) -> None:
    config = BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=300)
    BloomForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(AddError, match="layers of 'bloom' cannot be run one by one"):
        llm_part(str(tmp_path))
    write_json(
        tmp_path / "config.json", {**read_json(tmp_path / "config.json"), "auto_map": {"A": "x.Y"}}
    )
    with pytest.raises(AddError, match="asks to run"):
        llm_part(str(tmp_path))
    with pytest.raises(AddError, match=r"holds no config\.json"):
        llm_part(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("pickled", [False, True])
def test_an_llm_on_the_hub(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    pickled: bool,
) -> None:
    """Its commit is pinned; weights are not fetched; terms are said."""
    llama(tmp_path / "model")
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    weights = files.pop("model.safetensors")
    files["pytorch_model.bin" if pickled else "model.safetensors"] = weights
    monkeypatch.chdir(tmp_path)
    with hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.repositories["tiny/Llama-1"] = files
        server.told = {"tags": ["license:llama3.2"], "gated": "manual"}
        main(["add", "llm", "hf://tiny/Llama-1"])
        with pytest.raises(SystemExit):
            main(["add", "llm", "hf://tiny/Llama-1"])
        assert "is there already" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            main(["add", "llm", "hf://tiny/nothing"])
    text = Path("config/llms/llama-1.yaml").read_text()
    assert "(llama3.2; accept the terms on the hub, then `hf auth login`)" in text
    found = yaml.safe_load(text)
    address = f"hf://tiny/Llama-1@{COMMIT}" + ("/pytorch_model*.bin" if pickled else "")
    assert found["source"] == {"uri": address}
    assert found.get("convert") == ("pytorch" if pickled else None)


@pytest.mark.parametrize(
    ("model", "size", "expected"),
    [
        (
            "vit_base_patch16_siglip_224.v2_webli",
            None,
            {"uri": "hf://timm/vit_base_patch16_siglip_224.v2_webli", "tokens": 197, "layers": 12},
        ),
        (
            "vit_small_patch16_dinov3",
            128,
            {"uri": "hf://timm/vit_small_patch16_dinov3.lvd1689m", "tokens": 65, "layers": 12},
        ),
        (
            "convnext_atto",
            None,
            {"uri": "hf://timm/convnext_atto.d2_in1k", "tokens": 50, "layers": 1},
        ),
    ],
)
def test_a_backbone_of_timm(model: str, size: int | None, expected: dict[str, Any]) -> None:
    found = content(backbone_part(f"timm://{model}", image_size=size))
    shape = {key: found["shape"][key] for key in ("tokens", "layers")}
    assert {"uri": found["source"]["uri"], **shape} == expected
    published = timm.get_pretrained_cfg(model)
    assert published is not None
    assert (tuple(found["mean"]), tuple(found["std"])) == (published.mean, published.std)


def test_a_backbone_in_a_folder_of_timm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    published = {
        "input_size": [3, 32, 32],
        "mean": [0.1, 0.2, 0.3],
        "std": [1, 1, 1],
        "crop_pct": 1.0,
    }
    config = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": published}
    write_json(tmp_path / "config.json", config)
    spec = backbone_spec(content(backbone_part(str(tmp_path))))
    assert (spec.mean, spec.image_size, spec.shape.tokens) == ([0.1, 0.2, 0.3], 32, 5)
    assert load_backbone(spec, tmp_path).shape == {"layers": 12, "tokens": 5, "width": 192}


def test_clip_and_whisper_in_folders(tmp_path: Path) -> None:
    tiny_clip(tmp_path / "clip")
    colours = {"image_mean": [0.5, 0.4, 0.3], "image_std": [1, 1, 1]}
    write_json(tmp_path / "clip/preprocessor_config.json", colours)
    spec = backbone_spec(content(backbone_part(str(tmp_path / "clip"))))
    assert (spec.loader, spec.mean) == ("clip", [0.5, 0.4, 0.3])
    assert load_backbone(spec, tmp_path / "clip").shape == spec.shape.given()
    tiny_whisper(tmp_path / "whisper")
    sound = {"sampling_rate": 16000, "chunk_length": 30}
    write_json(tmp_path / "whisper/preprocessor_config.json", sound)
    spec = backbone_spec(content(backbone_part(str(tmp_path / "whisper"))))
    assert (spec.loader, spec.mel_bins, spec.seconds) == ("whisper", 8, 30)
    assert load_backbone(spec, tmp_path / "whisper").shape == spec.shape.given()


def test_what_is_no_backbone_is_named(tmp_path: Path) -> None:
    with pytest.raises(AddError, match="timm publishes no model 'vit_base_patch16_siglip_225'"):
        backbone_part("timm://vit_base_patch16_siglip_225")
    with pytest.raises(AddError, match="neither a vision transformer nor a ConvNeXt"):
        backbone_part("timm://resmlp_12_224")
    llama(tmp_path / "model")
    with pytest.raises(AddError, match=r"holds a 'llama' model; clip, .*docs/extend/backbone\.md"):
        backbone_part(str(tmp_path / "model"))
