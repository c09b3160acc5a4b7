"""Backbones: every block's tokens through the final norm, and only the weights that are meant."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from depalm.backbones.files import BackboneError
from depalm.backbones.load import load_backbone
from depalm.config.load import load_config
from depalm.config.schema import ConfigError, load_yaml
from depalm.config.store_plan import StorePlan
from depalm.files import write_json
from depalm.identity import weights_identity
from tests.support.specs import backbone_spec
from tests.support.vit import MODEL, SPEC, VIT, tiny_vit

PIXELS = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)


def test_tokens_are_each_blocks_output_through_the_final_norm(tmp_path: Path) -> None:
    model = tiny_vit(tmp_path)
    outputs: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda *args: outputs.append(args[-1]))
    with torch.inference_mode():
        final = model.forward_features(PIXELS)
        expected = torch.stack([model.norm(output) for output in outputs], dim=1)
    tokens = load_backbone(VIT, tmp_path)(PIXELS)
    assert tokens.shape == (2, 12, 5, 192)
    torch.testing.assert_close(tokens, expected)
    torch.testing.assert_close(tokens[:, -1], final)


def test_tokens_equal_timms_intermediates(tmp_path: Path) -> None:
    model = tiny_vit(tmp_path)
    with torch.inference_mode():
        maps = model.forward_intermediates(PIXELS, norm=True, intermediates_only=True)  # [B,D,H,W]
    patches = torch.stack([blocks.flatten(2).mT for blocks in maps], dim=1)
    torch.testing.assert_close(load_backbone(VIT, tmp_path)(PIXELS)[:, :, 1:], patches)


def test_it_is_frozen(tmp_path: Path) -> None:
    tiny_vit(tmp_path)
    backbone = load_backbone(VIT, tmp_path)
    assert not backbone.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not backbone(PIXELS).requires_grad


def test_position_embeddings_are_interpolated_to_the_image_size(tmp_path: Path) -> None:
    model = tiny_vit(tmp_path, image_size=64)
    spec = {**SPEC, "image_size": 48, "shape": {**SPEC["shape"], "tokens": 10}}
    state = load_backbone(backbone_spec(spec), tmp_path).state_dict()
    position = state["model.pos_embed"]
    assert position.shape == (1, 10, 192)
    assert position[:, 0].equal(model.pos_embed[:, 0])
    old, new = model.pos_embed[:, 1:].view(4, 4, 192), position[:, 1:].view(3, 3, 192)
    expected = torch.nn.functional.interpolate(
        old.permute(2, 0, 1)[None], size=(3, 3), mode="bicubic", antialias=True
    )
    torch.testing.assert_close(new.permute(2, 0, 1)[None], expected)


def test_missing_and_wrong_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"holds no \.safetensors; fetch or convert .*again"):
        load_backbone(VIT, tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"not safetensors")
    with pytest.raises(BackboneError, match=r"model\.safetensors cannot be read .*again"):
        load_backbone(VIT, tmp_path)
    tiny_vit(tmp_path)
    state = load_file(path)
    for changed, message in (
        ({name: state[name] for name in state if name != "norm.bias"}, r"norm\.bias"),
        ({**state, "extra.weight": torch.zeros(1)}, r"extra\.weight"),
    ):
        save_file(changed, path)
        with pytest.raises(
            BackboneError, match=rf"does not hold the weights of {MODEL}[^$]*{message}"
        ):
            load_backbone(VIT, tmp_path)


def test_another_shape_than_stated_is_an_error(tmp_path: Path) -> None:
    tiny_vit(tmp_path)
    spec = {**SPEC, "shape": {**SPEC["shape"], "tokens": 197}}
    with pytest.raises(BackboneError, match=r"'tokens': 5, .*but its YAML says .*'tokens': 197"):
        load_backbone(backbone_spec(spec), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loader": "tinn"}, r"unknown loader 'tinn'; there are: \['ast', 'clap', 'clip'"),
        ({"model": "vit_huge_nonsense"}, "timm has no 'vit_huge_nonsense' for images of 32 pixels"),
        ({"model": "resnet18"}, "timm has no 'resnet18' for images of 32 pixels"),
        (
            {"model": "resmlp_12_224"},
            "resmlp_12_224 is neither a vision transformer nor a ConvNeXt",
        ),
    ],
)
def test_what_cannot_be_a_backbone_is_named(
    tmp_path: Path, change: dict[str, str], message: str
) -> None:
    with pytest.raises(BackboneError, match=message):
        load_backbone(backbone_spec({**SPEC, **change}), tmp_path)


def test_weights_are_told_apart_by_source_or_content(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"holds no \.safetensors"):
        weights_identity(tmp_path)
    tiny_vit(tmp_path)
    identities = {weights_identity(tmp_path)}
    tiny_vit(tmp_path, seed=1)
    identities.add(weights_identity(tmp_path))
    for revision in ("a", "b"):
        write_json(
            tmp_path / "source.json", {"uri": "hf://a/b", "sha256": "0", "revision": revision}
        )
        identities.add(weights_identity(tmp_path))
    assert len(identities) == 4


def test_without_a_backbone_there_is_just_blind() -> None:
    root = Path(__file__).parents[2]
    settings = load_yaml(root / "config" / "demo.yaml")
    [block] = settings["grid"] = [{**settings["grid"][0], "backbones": ["disabled"]}]
    block["methods"] = ["blind"]
    assert StorePlan(load_config(settings, [root])).caches() == []
    block["methods"] = ["blind", "limber_1"]
    with pytest.raises(ConfigError, match="limber_1 reads tokens, but backbone disabled gives"):
        load_config(settings, [root])
