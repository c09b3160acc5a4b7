"""Encoders of video, beside TimeSformer: VideoMAE, V-JEPA 2, and pictures frame by frame."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import VideoMAEModel, VJEPA2Model

from depalm.backbones.base import Backbone, PooledBackbone, load_transformers
from depalm.backbones.files import BackboneError
from depalm.specs import BackboneSpec


class VideoMAE(PooledBackbone):
    """VideoMAE (Tong et al. 2022) on frames [B, F, 3, H, W]: a token for each patch of two frames,
    in their order; their mean is the summary token.
    """

    def __init__(self, model: VideoMAEModel, mean_pool: bool = False):
        norm = torch.nn.Identity() if model.layernorm is None else model.layernorm
        patches = model.embeddings.num_patches
        parts = model, model.encoder.layer, norm, patches, model.config.hidden_size
        super().__init__(*parts, mean_pool)


def load_videomae(spec: BackboneSpec, weights: Path) -> Backbone:
    """VideoMAE of transformers, without its decoder. Raises BackboneError."""
    model = load_transformers(VideoMAEModel, weights)
    _check(spec, model.config.num_frames, model.config.image_size)
    return VideoMAE(model, spec.cls_is_mean_pool)


class VJEPA2(PooledBackbone):
    """V-JEPA 2's encoder (Assran et al. 2025) on frames [B, F, 3, H, W]: a token for each patch of
    two frames, in their order; their mean is the summary token.
    """

    def __init__(self, model: VJEPA2Model, frames: int, mean_pool: bool = False):
        config, encoder = model.config, model.encoder
        side = config.crop_size // config.patch_size
        patches = frames // config.tubelet_size * side**2
        parts = encoder, encoder.layer, encoder.layernorm, patches, config.hidden_size
        super().__init__(*parts, mean_pool)


def load_vjepa2(spec: BackboneSpec, weights: Path) -> Backbone:
    """V-JEPA 2 of transformers for `frames` frames, without its predictor. Raises BackboneError."""
    assert spec.frames is not None
    model = load_transformers(VJEPA2Model, weights)
    _check(spec, None, model.config.crop_size)
    return VJEPA2(model, spec.frames, spec.cls_is_mean_pool)


def _check(spec: BackboneSpec, frames: int | None, size: int) -> None:
    """Raise BackboneError if the model is for other frames than the YAML says."""
    if frames not in (None, spec.frames) or size != spec.image_size:
        of_frames = "" if frames is None else f"frames: {frames}, "
        raise BackboneError(f"this model is for {of_frames}image_size: {size}; say so in its YAML")


class FrameByFrame(Backbone):
    """An encoder of pictures on each of the frames [B, F, 3, H, W]. The patches follow frame by
    frame, or are averaged over the frames; the summary token is the mean of the frames' own.
    """

    def __init__(
        self, backbone: Backbone, frames: int, time_average: bool, mean_pool: bool = False
    ):
        shape = backbone.shape
        patches = shape["tokens"] - 1
        tokens = 1 + patches * (1 if time_average else frames)
        super().__init__(shape["layers"], tokens, shape["width"], mean_pool)
        self.backbone, self.time_average = backbone, time_average

    def compile_blocks(self) -> None:
        self.backbone.compile_blocks()

    def tokens(self, inputs: Tensor) -> list[Tensor]:
        found = self.backbone.tokens(inputs.flatten(0, 1))  # L x [B F, T, D]
        return [self.arranged(tokens.unflatten(0, inputs.shape[:2])) for tokens in found]

    def arranged(self, frames: Tensor) -> Tensor:
        """[B, F, T, D] of F frames -> the tokens of the video."""
        if self.time_average:
            return frames.mean(dim=1)
        summary = frames[:, :, :1].mean(dim=1)
        return torch.cat((summary, frames[:, :, 1:].flatten(1, 2)), dim=1)
