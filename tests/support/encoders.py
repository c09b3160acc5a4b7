"""Tiny random encoders, written as they are published, for tests of what reads and runs them."""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    ASTConfig,
    ASTForAudioClassification,
    CLIPConfig,
    CLIPModel,
    TimesformerConfig,
    TimesformerForVideoClassification,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

COLOURS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
SOUND = {"sampling_rate": 16000, "seconds": 1}
CLIP_SPEC: dict[str, Any] = {
    "version": 1,
    "modality": "image",
    "loader": "clip",
    "path": "clip",
    "image_size": 32,
    **COLOURS,
    "shape": {"layers": 3, "tokens": 5, "width": 32},
}
OPEN_CLIP_SPEC = {**CLIP_SPEC, "loader": "open_clip"}
AST_SPEC: dict[str, Any] = {
    "version": 1,
    "modality": "audio",
    "loader": "ast",
    "path": "ast",
    "audio": "fbank",
    **SOUND,
    "mean": -4.0,
    "std": 4.5,
    "frames": 64,
    "mel_bins": 32,
    "shape": {"layers": 3, "tokens": 13, "width": 32},  # pooled, CLS, distillation, 2 x 5 patches
}
WHISPER_SPEC: dict[str, Any] = {
    "version": 1,
    "modality": "audio",
    "loader": "whisper",
    "path": "whisper",
    "audio": "log_mel",
    **SOUND,
    "mel_bins": 8,
    "shape": {"layers": 3, "tokens": 21, "width": 32},
}
TIMESFORMER_SPEC: dict[str, Any] = {
    "version": 1,
    "modality": "video",
    "loader": "timesformer",
    "path": "timesformer",
    **COLOURS,
    "frames": 4,
    "image_size": 32,
    "shape": {"layers": 3, "tokens": 17, "width": 32},
}
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}


def randomise(model: nn.Module, seed: int = 0) -> Any:
    """No weight is left at 0 or 1, where an exchange of two would not be seen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2, generator=generator)
    return model.eval()


def tiny_clip(directory: Path) -> CLIPModel:
    """Both halves, as on the hub."""
    vision = {**SIZES, "intermediate_size": 48, "image_size": 32, "patch_size": 16}
    text = {**SIZES, "intermediate_size": 48, "vocab_size": 20}
    config = CLIPConfig(vision_config=vision, text_config=text, projection_dim=16)
    return _saved(CLIPModel(config), directory)


def tiny_ast(directory: Path, frames: int = 64, mel_bins: int = 32) -> ASTForAudioClassification:
    """With its classifier."""
    config = ASTConfig(**SIZES, intermediate_size=48, max_length=frames, num_mel_bins=mel_bins)
    return _saved(ASTForAudioClassification(config), directory)


def tiny_whisper(directory: Path, frames: int = 40) -> WhisperForConditionalGeneration:
    """Encoder and decoder."""
    config = WhisperConfig(
        vocab_size=20,
        d_model=32,
        num_mel_bins=8,
        max_source_positions=frames // 2,
        encoder_layers=3,
        encoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_layers=1,
        decoder_attention_heads=4,
        decoder_ffn_dim=48,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        decoder_start_token_id=3,
    )
    return _saved(WhisperForConditionalGeneration(config), directory)


def tiny_timesformer(directory: Path) -> TimesformerForVideoClassification:
    """With its classifier, trained on 4 frames."""
    config = TimesformerConfig(
        **SIZES, intermediate_size=48, image_size=32, patch_size=16, num_frames=4
    )
    return _saved(TimesformerForVideoClassification(config), directory)


def tiny_open_clip(directory: Path, embed_dim: int = 16, **vision: Any) -> nn.Module:
    """Both halves and the configuration, as on the hub; with `vision` in its `vision_cfg`."""
    sizes = {"image_size": 32, "layers": 3, "width": 32, "head_width": 8, "patch_size": 16}
    config = {
        "embed_dim": embed_dim,
        "vision_cfg": {**sizes, **vision},
        "text_cfg": {"context_length": 7, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1},
    }
    model: nn.Module = randomise(open_clip.CLIP(**config))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}})
    )
    save_file(model.state_dict(), directory / "open_clip_model.safetensors")
    return model


def _saved(model: Any, directory: Path) -> Any:
    randomise(model).save_pretrained(directory)
    return model
