"""Encoders of one picture: of timm (spectrograms too), and CLIP of transformers."""

import math
from pathlib import Path
from types import ModuleType
from typing import Any

import timm
import torch
from timm.models import convnext, eva, vision_transformer
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import CLIPVisionModel

from depalm.backbones.base import (
    Backbone,
    BlockBackbone,
    PooledBackbone,
    fill,
    load_transformers,
    read_weights,
)
from depalm.backbones.files import BackboneError
from depalm.specs import BackboneSpec


class TimmViT(PooledBackbone):
    """A vision transformer of timm. The summary token is what its head pools of each layer: the
    output of its attention pooling (SigLIP, PE), or CLS, or, where there is neither, the mean of
    the patches. Registers are dropped.
    """

    def __init__(self, model: VisionTransformer | Eva, mean_pool: bool = False):
        parts = model, model.blocks, model.norm, model.patch_embed.num_patches, model.embed_dim
        has_cls = model.cls_token is not None and model.attn_pool is None
        super().__init__(*parts, mean_pool, model.num_prefix_tokens, has_cls)

    def pooled(self, tokens: Tensor) -> Tensor:
        """[B, T, D] -> [B, D], as the model pools its last layer."""
        model: Any = self.model
        found: Tensor = model.fc_norm(model.pool(tokens))
        return found

    def run(self, inputs: Tensor) -> None:
        """Pixels [B, 3, H, W], or filterbanks [B, frames, bins], which are pictures in grey."""
        pixels = inputs if inputs.ndim == 4 else inputs.unsqueeze(1)
        self.model.forward_features(pixels)  # type: ignore[operator]


class TimmConvNeXt(Backbone):
    """The last map of a ConvNeXt of timm, on pixels [B, 3, H, W]; its mean is the summary token.
    Both go through the norm of the head. It is one output; each of the `layers` is the same.
    """

    def __init__(self, model: ConvNeXt, layers: int, size: int, mean_pool: bool = False):
        side = -(-size // model.feature_info[-1]["reduction"])
        super().__init__(layers, 1 + side * side, model.num_features, mean_pool)
        self.model = model

    def tokens(self, inputs: Tensor) -> list[Tensor]:
        grid = self.model.forward_features(inputs)  # [B, D, rows, columns]
        maps = (grid.mean(dim=(2, 3), keepdim=True), grid)
        tokens = torch.cat([self.model.head.norm(one).flatten(2) for one in maps], dim=2)
        return [tokens.transpose(1, 2)] * self.shape["layers"]


def load_timm(spec: BackboneSpec, weights: Path) -> Backbone:
    """timm's `model` at `image_size` pixels (or `frames` by `mel_bins`), loaded strictly.

    The classifier's weights are left out, and with `final_norm: false` those of the final norm;
    position embeddings of another resolution are interpolated as timm does it, or as DINOv2's own
    code (`position_interpolation`). Raises BackboneError.
    """
    model = build_timm(spec)
    unused = [f"{model.pretrained_cfg['classifier']}."]
    if not spec.final_norm:
        unused += ["norm.", "fc_norm."]
    state = read_weights(weights)
    if spec.position_interpolation == "dinov2":
        rows, columns = model.patch_embed.grid_size
        state["pos_embed"] = dinov2_positions(state["pos_embed"], rows, columns)
    library = next(library for kind, library in LIBRARIES.items() if isinstance(model, kind))
    state = library.checkpoint_filter_fn(state, model)
    used = {key: state[key] for key in state if not key.startswith(tuple(unused))}
    fill(model, used, str(spec.model), weights)
    return of_timm(spec, model)


def of_timm(spec: BackboneSpec, model: nn.Module) -> Backbone:
    """The backbone of a model of timm. Raises BackboneError."""
    if isinstance(model, ConvNeXt) and spec.image_size is not None:
        return TimmConvNeXt(model, spec.shape.layers, spec.image_size, spec.cls_is_mean_pool)
    if isinstance(model, VisionTransformer | Eva):
        return TimmViT(model, spec.cls_is_mean_pool)
    raise BackboneError(
        f"{type(model).__name__} is neither a vision transformer nor a ConvNeXt for images"
    )


def dinov2_positions(positions: Tensor, rows: int, columns: int) -> Tensor:
    """Position embeddings of DINOv2 [1, P, D], or with CLS first [1, 1 + P, D], for a grid of
    another size, as its own code has them: bicubic without antialiasing, scaled as if the grid were
    0.1 larger.
    """
    side = math.isqrt(positions.shape[1])
    if side == rows == columns:
        return positions
    cls, patches = positions.split([positions.shape[1] - side * side, side * side], dim=1)
    grid = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # [1, D, side, side]
    scale = ((rows + 0.1) / side, (columns + 0.1) / side)
    resized = interpolate(grid.float(), scale_factor=scale, mode="bicubic")  # [1, D, rows, columns]
    return torch.cat((cls, resized.flatten(2).transpose(1, 2)), dim=1)


def build_timm(spec: BackboneSpec) -> VisionTransformer | Eva | ConvNeXt:
    """The model of `load_timm` with random weights. Raises BackboneError."""
    name, on_audio = spec.model, spec.audio is not None
    size = (spec.frames, spec.mel_bins) if on_audio else spec.image_size
    convolves = str(name).startswith("convnext")  # at any size
    sizes = {} if convolves else {"img_size": size}
    try:
        model: Any = timm.create_model(name, num_classes=0, in_chans=1 if on_audio else 3, **sizes)
    except (RuntimeError, TypeError) as error:
        raise BackboneError(f"timm has no {name!r} for images of {size} pixels: {error}") from error
    if not any(isinstance(model, kind) for kind in LIBRARIES) or (convolves and on_audio):
        raise BackboneError(f"{name} is neither a vision transformer nor a ConvNeXt for images")
    if not spec.final_norm:
        model.norm = model.fc_norm = nn.Identity()
        if convolves:
            model.head.norm = nn.Identity()
    return model


LIBRARIES: dict[type[nn.Module], ModuleType] = {
    VisionTransformer: vision_transformer,
    Eva: eva,
    ConvNeXt: convnext,
}


class ClipViT(BlockBackbone):
    """The vision half of a CLIP model of transformers, on pixels [B, 3, H, W]; CLS is the summary
    token.
    """

    def __init__(self, model: CLIPVisionModel, mean_pool: bool = False):
        vision = getattr(model, "vision_model", model)  # older transformers have it inside
        tokens, width = vision.embeddings.num_positions, model.config.hidden_size
        layers, norm = vision.encoder.layers, vision.post_layernorm
        super().__init__(model, layers, norm, tokens, width, mean_pool)


def load_clip(spec: BackboneSpec, weights: Path) -> Backbone:
    """CLIP of transformers; the text half is left out. Raises BackboneError."""
    return ClipViT(load_transformers(CLIPVisionModel, weights), spec.cls_is_mean_pool)
