"""A tiny random vision transformer, as a real checkpoint on disk that real loading code reads."""

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from tests.support.specs import backbone_spec

MODEL = "vit_tiny_patch16_224"  # 12 blocks of width 192
SPEC: dict[str, Any] = {
    "version": 1,
    "modality": "image",
    "loader": "timm",
    "path": "vit",
    "model": MODEL,
    "image_size": 32,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "shape": {"layers": 12, "tokens": 5, "width": 192},
}
VIT = backbone_spec(SPEC)


def tiny_vit(
    directory: Path, image_size: int | tuple[int, int] = 32, seed: int = 0, channels: int = 3
) -> VisionTransformer:
    """Write model.safetensors of a random MODEL with its classifier, as it is published; return
    the model.
    """
    torch.manual_seed(seed)
    model: VisionTransformer = timm.create_model(
        MODEL, img_size=image_size, in_chans=channels
    ).eval()
    for parameter in model.parameters():  # zero biases and unit norms would hide mistakes
        torch.nn.init.normal_(parameter, std=0.1)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), directory / "model.safetensors")
    return model
