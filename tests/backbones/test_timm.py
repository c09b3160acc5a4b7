"""Models of timm with any number of prefix tokens, pooled or not, and ConvNeXt: on random weights,
as timm publishes them.
"""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from depalm.backbones.base import Backbone
from depalm.backbones.load import load_backbone
from depalm.backbones.vision import build_timm, dinov2_positions
from tests.support.specs import backbone_spec
from tests.support.vit import SPEC

CONFIG = Path(__file__).parents[2] / "config" / "backbones"
SHIPPED = sorted(path.stem for path in CONFIG.glob("*.yaml") if "loader: timm" in path.read_text())


def published(folder: Path, model: str, size: int | None = None) -> nn.Module:
    """model.safetensors of a random `model` with its classifier, and the model."""
    torch.manual_seed(0)
    sizes = {} if size is None else {"img_size": size}
    made: nn.Module = timm.create_model(model, **sizes).eval()
    for parameter in made.parameters():  # zero biases and unit norms would hide mistakes
        nn.init.normal_(parameter, std=0.1)
    save_file(made.state_dict(), folder / "model.safetensors")
    return made


def loaded(folder: Path, model: str, size: int, tokens: int, width: int, layers: int) -> Backbone:
    shape = {"layers": layers, "tokens": tokens, "width": width}
    content = {**SPEC, "model": model, "image_size": size, "shape": shape}
    return load_backbone(backbone_spec(content), folder)


def layers_of(model: Any, pixels: Tensor) -> list[Tensor]:
    """The tokens of each block through the final norm, prefix first, by timm itself."""
    found = model.forward_intermediates(
        pixels, norm=True, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
    )
    pairs = [one if isinstance(one, tuple) else (one, one[:, :0]) for one in found]
    return [torch.cat((prefix, patches), dim=1) for patches, prefix in pairs]


def pixels(size: int) -> Tensor:
    return torch.linspace(-1, 1, 2 * 3 * size * size).sin().view(2, 3, size, size)


@pytest.mark.parametrize(
    ("name", "size", "width", "layers", "prefix"),
    [
        ("vit_small_patch14_reg4_dinov2", 28, 384, 12, 5),
        ("vit_small_patch16_dinov3", 32, 384, 12, 5),
    ],
)
def test_registers_are_dropped(
    tmp_path: Path, name: str, size: int, width: int, layers: int, prefix: int
) -> None:
    model = published(tmp_path, name, size)
    with torch.inference_mode():
        expected = [
            torch.cat((tokens[:, :1], tokens[:, prefix:]), dim=1)
            for tokens in layers_of(model, pixels(size))
        ]
    tokens = loaded(tmp_path, name, size, 5, width, layers)(pixels(size))
    torch.testing.assert_close(tokens, torch.stack(expected, dim=1))


@pytest.mark.parametrize(
    ("name", "size", "width", "layers", "prefix"),
    [
        ("vit_base_patch16_siglip_224", 32, 768, 12, 0),
        ("vit_base_patch16_siglip_gap_224", 32, 768, 12, 0),  # a mean
        ("vit_pe_core_tiny_patch16_384", 32, 192, 12, 1),
        ("vit_little_patch16_reg1_gap_256", 32, 320, 14, 1),  # a register, and a mean
    ],
)
def test_what_the_head_pools_is_the_summary(
    tmp_path: Path, name: str, size: int, width: int, layers: int, prefix: int
) -> None:
    model: Any = published(tmp_path, name, size)
    with torch.inference_mode():
        found = layers_of(model, pixels(size))
        pooled = [model.forward_head(tokens, pre_logits=True) for tokens in found]
        last = model.forward_head(model.forward_features(pixels(size)), pre_logits=True)
    tokens = loaded(tmp_path, name, size, 5, width, layers)(pixels(size))
    torch.testing.assert_close(tokens[:, :, 0], torch.stack(pooled, dim=1))
    torch.testing.assert_close(tokens[:, -1, 0], last)
    patches = torch.stack([one[:, prefix:] for one in found], dim=1)
    torch.testing.assert_close(tokens[:, :, 1:], patches)


def test_the_last_map_of_a_convnext(tmp_path: Path) -> None:
    model: Any = published(tmp_path, "convnext_atto")
    with torch.inference_mode():
        grid = model.forward_features(pixels(64))
        pooled = model.forward_head(grid, pre_logits=True)
        normed = model.head.norm(grid)  # over the channels of each place
    tokens = loaded(tmp_path, "convnext_atto", 64, 5, 320, 2)(pixels(64))
    torch.testing.assert_close(tokens[:, 0, 0], pooled)
    for place, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):  # reading order
        torch.testing.assert_close(tokens[:, 0, 1 + place], normed[:, :, row, column])
    assert tokens[:, 0].equal(tokens[:, 1])


@pytest.mark.parametrize("name", SHIPPED)
def test_what_timm_publishes_fits(name: str) -> None:
    """The names in the published model, but for its classifier, are those that are filled."""
    spec = backbone_spec(yaml.safe_load((CONFIG / f"{name}.yaml").read_text()))
    with torch.device("meta"):
        ours = build_timm(spec)
        whole = timm.create_model(str(spec.model))
    classifier = f"{whole.pretrained_cfg['classifier']}."
    names = {key for key in whole.state_dict() if not key.startswith(classifier)}
    if not spec.final_norm:
        names = {key for key in names if not key.startswith(("norm.", "fc_norm."))}
    assert set(ours.state_dict()) == names


@pytest.mark.parametrize("name", [n for n in SHIPPED if n.startswith(("sig", "dinov3", "pe-"))])
def test_colours_are_those_of_the_publisher(name: str) -> None:
    content = yaml.safe_load((CONFIG / f"{name}.yaml").read_text())
    tagged, _, _ = content["source"]["uri"].removeprefix("hf://timm/").partition("@")
    published = timm.get_pretrained_cfg(tagged)
    assert published is not None
    assert (tuple(content["mean"]), tuple(content["std"])) == (published.mean, published.std)
    assert published.input_size[1:] == (content["image_size"],) * 2
    assert published.hf_hub_id == f"timm/{tagged}"


def test_positions_without_cls_are_interpolated_like_those_with_it() -> None:
    patches = torch.randn(1, 49, 6)
    with_cls = dinov2_positions(torch.cat((torch.zeros(1, 1, 6), patches), dim=1), 4, 4)
    assert dinov2_positions(patches, 4, 4).equal(with_cls[:, 1:])
