"""The backbones of config/backbones at their full size."""

from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor
from transformers import (
    ASTConfig,
    ASTModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    TimesformerConfig,
    TimesformerModel,
    VideoMAEConfig,
    VideoMAEModel,
    VJEPA2Config,
    VJEPA2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from depalm.backbones.audio_video import AST, TimeSformer, Whisper
from depalm.backbones.base import Backbone
from depalm.backbones.open_clip_vision import of_open_clip
from depalm.backbones.registry import LOADERS
from depalm.backbones.speech import WaveformEncoder
from depalm.backbones.video import VJEPA2, FrameByFrame, VideoMAE
from depalm.backbones.vision import ClipViT, build_timm, of_timm
from depalm.config.schema import check_schema
from tests.support.backbones import CONFIG, spec_of
from tests.support.specs import backbone_spec

PARTS = sorted(path.stem for path in CONFIG.glob("*.yaml"))


def full_size(spec: dict[str, Any]) -> tuple[Backbone, Tensor]:
    """The real architecture on the meta device, and a batch of one input."""
    shape, loader = spec["shape"], spec["loader"]
    sizes = {
        "hidden_size": shape["width"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["width"] // 64,
        "intermediate_size": 4 * shape["width"],
    }
    pixels = torch.empty(1, 3, spec.get("image_size", 0), spec.get("image_size", 0))
    fbank = torch.empty(1, spec.get("frames", 0), spec.get("mel_bins", 0))
    if loader == "timm":
        timm_spec = backbone_spec(spec)
        backbone = of_timm(timm_spec, build_timm(timm_spec))
        if spec["modality"] == "video":
            average = spec.get("time_average", False)
            film = pixels.unsqueeze(1).expand(-1, spec["frames"], -1, -1, -1)
            return FrameByFrame(backbone, spec["frames"], average), film
        return backbone, fbank if "audio" in spec else pixels
    if loader == "clip":
        patch = {257: 14, 197: 16}[shape["tokens"]]
        return ClipViT(CLIPVisionModel(CLIPVisionConfig(**sizes, patch_size=patch))), pixels
    if loader == "open_clip":
        name = {257: "ViT-L-14", 197: "ViT-B-16"}[shape["tokens"]]
        vision = open_clip.create_model(name, device="meta").visual
        return of_open_clip(backbone_spec(spec), vision), pixels
    if loader == "ast":
        return AST(ASTModel(ASTConfig(**sizes))), fbank
    if loader == "whisper":
        heads = shape["width"] // 64
        config = WhisperConfig(
            d_model=shape["width"],
            encoder_layers=shape["layers"],
            encoder_attention_heads=heads,
            num_mel_bins=spec["mel_bins"],
        )
        return Whisper(WhisperEncoder(config)), torch.empty(1, spec["mel_bins"], 3000)
    if loader == "waveform":
        samples = spec["seconds"] * spec["sampling_rate"]
        encoder = WaveformEncoder(WavLMModel(WavLMConfig(**sizes)), samples, normalise=True)
        return encoder, torch.empty(1, samples)
    film = pixels.unsqueeze(1).expand(-1, spec["frames"], -1, -1, -1)
    if loader == "videomae":
        return VideoMAE(VideoMAEModel(VideoMAEConfig(**sizes, num_frames=spec["frames"]))), film
    if loader == "vjepa2":
        of_clip = VJEPA2Config(**sizes, crop_size=spec["image_size"])
        return VJEPA2(VJEPA2Model(of_clip), spec["frames"]), film
    assert loader == "timesformer"
    model = TimesformerModel(TimesformerConfig(**sizes, num_frames=8))
    return TimeSformer(model, spec["frames"], spec.get("time_average", False)), film


# clap is tested above in full size, as what it is built of cannot be on the meta device
@pytest.mark.parametrize("name", [name for name in PARTS if name not in ("clap", "disabled")])
def test_full_size_has_the_shape_of_its_yaml(name: str) -> None:
    spec = spec_of(name)
    with torch.device("meta"), torch.inference_mode():
        backbone, inputs = full_size(spec)
        tokens = backbone.eval()(inputs)
    shape = {key: value for key, value in spec["shape"].items() if key != "grid"}
    assert backbone.shape == shape
    assert tokens.shape == (1, shape["layers"], shape["tokens"], shape["width"])


@pytest.mark.parametrize(
    ("names", "tokens", "width"),
    [
        (["clip-vit-L", "clip-vit-L-laion", "eva-clip-L", "dinov2-L"], 257, 1024),
        (["clip-vit-B", "clip-vit-B-laion", "vit-B-in1k", "vit-B-in21k_ft1k"], 197, 768),
        (["ast"], 1215, 768),
        (["mavil", "mavil_mean", "audiomae"], 513, 768),
        (["clap"], 1025, 512),
        (["timesformer"], 3137, 768),
        (["timesformer_avg"], 197, 768),
    ],
)
def test_shapes_are_those_of_the_paper(names: list[str], tokens: int, width: int) -> None:
    for name in names:
        shape = spec_of(name)["shape"]
        assert (shape["tokens"], shape["width"]) == (tokens, width), name


@pytest.mark.parametrize("name", PARTS)
def test_every_part_is_valid(name: str) -> None:
    spec = spec_of(name)
    check_schema(spec, "backbone", name)
    assert spec["loader"] in LOADERS
    without_norm = {"eva-clip-L", "eva-clip-L-tuned", "mavil", "mavil_mean", "audiomae"}
    assert spec.get("final_norm", True) == (name not in without_norm)
    assert spec.get("cls_is_mean_pool", False) == (name == "mavil_mean")
    assert spec.get("time_average", False) == (name == "timesformer_avg")
