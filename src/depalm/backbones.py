"""Frozen perceptual encoders -> tokens of every block [B, L, T, D], CLS first."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from depalm.files import read_json, sha256_file, sha256_json


class BackboneError(RuntimeError):
    """A backbone that cannot be used: missing weights, or not the architecture that is stated."""


class Backbone(nn.Module, ABC):
    """A frozen encoder; `shape` is {"layers": L, "tokens": T (with CLS), "width": D}."""

    shape: dict[str, int]

    @abstractmethod
    def forward(self, pixels: Tensor) -> Tensor:
        """Input of B samples, e.g. pixels [B, 3, H, W] -> the output of every block, through the
        final norm, CLS first [B, L, T, D].
        """


class TimmViT(Backbone):
    """A vision transformer of timm, with one CLS token and one final norm."""

    def __init__(self, model: VisionTransformer):
        super().__init__()
        self.model = model
        self.shape = {
            "layers": len(model.blocks),
            "tokens": model.num_prefix_tokens + model.patch_embed.num_patches,
            "width": model.embed_dim,
        }

    @torch.inference_mode()
    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B, 3, H, W], H and W the model's -> [B, L, T, D]."""
        blocks = self.model.forward_intermediates(
            pixels, norm=True, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )
        return torch.stack([torch.cat((cls, patches), dim=1) for patches, cls in blocks], dim=1)


def load_timm(spec: Mapping[str, Any], weights: Path) -> Backbone:
    """timm's `model` at `image_size` pixels, its model.safetensors loaded strictly.

    The classifier's weights are left out; position embeddings of another resolution are
    interpolated as timm does it. Raises BackboneError.
    """
    name, size = spec["model"], spec["image_size"]
    try:
        model = timm.create_model(name, img_size=size, num_classes=0)
    except (RuntimeError, TypeError) as error:
        raise BackboneError(f"timm has no {name!r} for images of {size} pixels: {error}") from error
    if not isinstance(model, VisionTransformer) or model.num_prefix_tokens != 1:
        raise BackboneError(f"{name} is not a vision transformer with just a CLS token")
    path = weights / "model.safetensors"
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BackboneError(
            f"{path} cannot be read ({error}); fetch or convert it again"
        ) from error
    classifier = f"{model.pretrained_cfg['classifier']}."
    encoder = {k: value for k, value in state.items() if not k.startswith(classifier)}
    try:
        model.load_state_dict(checkpoint_filter_fn(encoder, model), strict=True)
    except RuntimeError as error:
        raise BackboneError(f"{path} does not hold the weights of {name}: {error}") from error
    return TimmViT(model)


def load_backbone(spec: Mapping[str, Any], weights: Path | str) -> Backbone:
    """The backbone of `spec` (config/backbones/*.yaml) with the weights in a directory: frozen, in
    evaluation mode, float32, on the CPU.

    Raises BackboneError if the weights are missing, are another model's, or the model has not the
    shape that `spec` states.
    """
    loader = LOADERS.get(spec["loader"])
    if loader is None:
        raise BackboneError(f"unknown loader {spec['loader']!r}; there are: {sorted(LOADERS)}")
    backbone = loader(spec, Path(weights)).eval().requires_grad_(False)
    if backbone.shape != dict(spec["shape"]):
        raise BackboneError(
            f"{spec['model']} has the shape {backbone.shape}, but its YAML says {spec['shape']}: "
            "correct the one that is wrong (tokens depend on image_size)"
        )
    return backbone


def weights_identity(weights: Path | str) -> str:
    """What tells these weights from others: SHA-256 of the content of source.json (where they are
    from, and their checksum there), or of model.safetensors if nobody fetched them.
    """
    source = Path(weights) / "source.json"
    if source.is_file():
        return sha256_json(read_json(source))
    path = Path(weights) / "model.safetensors"
    if not path.is_file():
        raise BackboneError(f"{weights} holds neither source.json nor model.safetensors")
    return sha256_file(path)


LOADERS: dict[str, Callable[[Mapping[str, Any], Path], Backbone]] = {"timm": load_timm}
