"""The vision halves of open_clip: tiny random checkpoints as they are published, against what the
library computes.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from depalm.backbones.base import Backbone
from depalm.backbones.files import BackboneError
from depalm.backbones.load import load_backbone
from tests.support.encoders import OPEN_CLIP_SPEC, tiny_open_clip
from tests.support.specs import backbone_spec

PIXELS = torch.linspace(-1, 1, 2 * 3 * 64 * 64).sin().view(2, 3, 64, 64)
SMALL = PIXELS[..., :32, :32]


def loaded(
    folder: Path, tokens: int = 5, width: int = 32, layers: int = 3, **more: Any
) -> Backbone:
    shape = {"layers": layers, "tokens": tokens, "width": width}
    return load_backbone(backbone_spec({**OPEN_CLIP_SPEC, "shape": shape, **more}), folder)


@torch.no_grad()
def outputs(vision: Any) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The output of each block, CLS first, without the final norm; and the embedding."""
    found = vision.forward_intermediates(SMALL, output_fmt="NLC", output_extra_tokens=True)
    pairs = zip(found["image_intermediates_prefix"], found["image_intermediates"], strict=True)
    return [torch.cat(pair, dim=1) for pair in pairs], found["image_features"]


def test_a_vision_transformer(tmp_path: Path) -> None:
    vision = tiny_open_clip(tmp_path).visual
    expected, embedding = outputs(vision)
    tokens = loaded(tmp_path)(SMALL)
    torch.testing.assert_close(tokens, vision.ln_post(torch.stack(expected, dim=1)))
    torch.testing.assert_close(tokens[:, -1, 0] @ vision.proj, embedding)


@pytest.mark.parametrize("norm_is_last", [False, True])
@pytest.mark.parametrize("pool", ["tok", "avg"])
def test_a_pool_and_a_norm_as_the_model_has_them(
    tmp_path: Path, pool: str, norm_is_last: bool
) -> None:
    """As CLIPA has them: a mean, and the norm behind it."""
    how = {"pool_type": pool, "final_ln_after_pool": norm_is_last, "no_ln_pre": True}
    vision = tiny_open_clip(tmp_path, pos_embed_type="sin_cos_2d", **how).visual
    blocks, embedding = outputs(vision)
    patches = torch.stack(blocks, dim=1)[:, :, 1:]
    tokens = loaded(tmp_path)(SMALL)
    expected = patches if norm_is_last else vision.ln_post(patches)
    torch.testing.assert_close(tokens[:, :, 1:], expected)
    torch.testing.assert_close(tokens[:, -1, 0] @ vision.proj, embedding)


@pytest.mark.parametrize("kind", [True, "parallel", "cascade"])
def test_what_a_pooler_with_attention_reads(tmp_path: Path, kind: bool | str) -> None:
    """CoCa's final norm is of its pooler's outputs, which are as wide as the blocks here."""
    how = {"attentional_pool": kind, "attn_pooler_queries": 4, "attn_pooler_heads": 4}
    vision = tiny_open_clip(tmp_path, embed_dim=32, **how).visual
    blocks, _ = outputs(vision)
    torch.testing.assert_close(loaded(tmp_path)(SMALL), torch.stack(blocks, dim=1))


def test_a_resnet(tmp_path: Path) -> None:
    model = tiny_open_clip(tmp_path, image_size=64, layers=[1, 1, 1, 1], width=8, head_width=32)
    vision = model.visual
    with torch.no_grad():
        grid = vision.forward_intermediates(PIXELS)["image_intermediates"][-1]
    tokens = loaded(tmp_path, width=256, layers=2)(PIXELS)
    assert grid.shape == (2, 256, 2, 2)
    torch.testing.assert_close(tokens[:, 0, 0], grid.mean(dim=(2, 3)))
    for place, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):  # reading order
        torch.testing.assert_close(tokens[:, 0, 1 + place], grid[:, :, row, column])
    assert tokens[:, 0].equal(tokens[:, 1])


@pytest.mark.parametrize(
    ("name", "pool", "projection"),
    [
        ("vit_tiny_patch16_224", "token", "linear"),
        ("vit_pe_core_tiny_patch16_384", "map", "none"),
        ("convnext_atto", "", "linear"),
    ],
)
def test_a_tower_of_timm(tmp_path: Path, name: str, pool: str, projection: str) -> None:
    how = {"timm_model_name": name, "timm_pool": pool, "timm_proj": projection}
    trunk = tiny_open_clip(tmp_path, embed_dim=192, image_size=224, **how).visual.trunk
    size = trunk.default_cfg["input_size"][-1]
    pixels = torch.linspace(-1, 1, 3 * size * size).sin().view(1, 3, size, size)
    with torch.no_grad():
        features = trunk.forward_features(pixels)
        pooled = trunk.forward_head(features, pre_logits=True)
    convolves = features.ndim == 4
    count = features[0, 0].numel() if convolves else trunk.patch_embed.num_patches
    sizes = {"tokens": 1 + count, "width": trunk.num_features, "layers": 2 if convolves else 12}
    tokens = loaded(tmp_path, **sizes, image_size=size)(pixels)
    torch.testing.assert_close(tokens[:, -1, 0], pooled)
    if not convolves:
        torch.testing.assert_close(tokens[:, -1, 1:], features[:, trunk.num_prefix_tokens :])


def test_a_tower_of_timm_that_has_no_tokens(tmp_path: Path) -> None:
    tiny_open_clip(tmp_path, image_size=224, timm_model_name="mobilenetv3_small_050")
    with pytest.raises(BackboneError, match="MobileNetV3 is neither a vision transformer nor"):
        loaded(tmp_path)


def test_errors(tmp_path: Path) -> None:
    tiny_open_clip(tmp_path)
    path = tmp_path / "open_clip_model.safetensors"
    state = load_file(path)
    save_file({name: state[name] for name in state if "ln_post" not in name}, path)
    with pytest.raises(BackboneError, match=r"visual\.ln_post\.weight"):
        loaded(tmp_path)
    (tmp_path / "open_clip_config.json").unlink()
    with pytest.raises(BackboneError, match=r"open_clip_config\.json"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("half", "changes"),
    [
        ("text_cfg", {"hf_model_name": "owner/name"}),
        ("vision_cfg", {"timm_model_name": "hf-hub:owner/name"}),
        ("vision_cfg", {"timm_model_name": "local-dir:/some/where"}),
        ("vision_cfg", {"timm_model_name": "convnext_atto", "timm_model_pretrained": True}),
    ],
)
def test_models_that_would_be_fetched_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: str, changes: dict[str, Any]
) -> None:
    tiny_open_clip(tmp_path)
    path = tmp_path / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"][half] |= changes
    path.write_text(json.dumps(config))

    def fetch(*arguments: Any, **named: Any) -> nn.Module:
        raise AssertionError(f"{arguments} {named} were asked for")

    monkeypatch.setattr(timm, "create_model", fetch)
    with pytest.raises(BackboneError, match=rf"asks for the model .* from elsewhere \({half}"):
        loaded(tmp_path)
