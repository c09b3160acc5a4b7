"""SigLIP, DINOv3, VideoMAE, V-JEPA 2, HuBERT and WavLM of transformers, and pictures frame by
frame: tiny random checkpoints as they are published, against what the library computes.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    DINOv3ViTConfig,
    DINOv3ViTModel,
    HubertConfig,
    HubertModel,
    PreTrainedModel,
    SiglipConfig,
    SiglipModel,
    VideoMAEConfig,
    VideoMAEForPreTraining,
    VJEPA2Config,
    VJEPA2Model,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WavLMModel,
)

from depalm.backbones.base import Backbone
from depalm.backbones.files import BackboneError
from depalm.backbones.load import load_backbone
from depalm.files import write_json
from tests.support.encoders import CLIP_SPEC, TIMESFORMER_SPEC, tiny_clip
from tests.support.specs import backbone_spec

PIXELS = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
FILM = torch.linspace(-9, 9, 2 * 4 * 3 * 32 * 32).sin().view(2, 4, 3, 32, 32)
SOUND = torch.linspace(0, 900, 2 * 8000).sin().view(2, 8000) + 0.3
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
PICTURES = {"image_size": 32, "patch_size": 16}


def saved(model: PreTrainedModel, folder: Path) -> Any:
    """With weights that hide no mistake, as zero biases and unit norms would."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    model.eval().save_pretrained(folder)
    return model


def loaded(folder: Path, like: dict[str, Any], tokens: int, **changes: Any) -> Backbone:
    shape = {"layers": 3, "tokens": tokens, "width": 32}
    return load_backbone(backbone_spec({**like, **changes, "shape": shape}), folder)


@torch.no_grad()
def hidden_states(model: Any, *inputs: Tensor, **options: Any) -> list[Tensor]:
    """The output of each layer as the library gives it."""
    return list(model(*inputs, output_hidden_states=True, **options).hidden_states[1:])


def same(found: Tensor, expected: list[Tensor]) -> None:
    torch.testing.assert_close(found, torch.stack(expected, dim=1), atol=1e-4, rtol=1e-4)


def test_siglip(tmp_path: Path) -> None:
    text = {**SIZES, "vocab_size": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = SiglipConfig(vision_config={**SIZES, **PICTURES}, text_config=text)
    vision = saved(SiglipModel(config), tmp_path).vision_model
    tokens = loaded(tmp_path, CLIP_SPEC, 5, loader="siglip")(PIXELS)
    with torch.no_grad():
        outputs = [vision.post_layernorm(one) for one in hidden_states(vision, PIXELS)]
        expected = [torch.cat((vision.head(one)[:, None], one), dim=1) for one in outputs]
        same(tokens, expected)
        torch.testing.assert_close(tokens[:, -1, 0], vision(PIXELS).pooler_output)


def test_dinov3(tmp_path: Path) -> None:
    model = saved(DINOv3ViTModel(DINOv3ViTConfig(**SIZES, **PICTURES)), tmp_path)
    tokens = loaded(tmp_path, CLIP_SPEC, 5, loader="dinov3")(PIXELS)
    prefix = 1 + model.config.num_register_tokens
    with torch.no_grad():
        outputs = [model.norm(one) for one in hidden_states(model, PIXELS)]
        same(tokens, [torch.cat((one[:, :1], one[:, prefix:]), dim=1) for one in outputs])
        torch.testing.assert_close(tokens[:, -1, 0], model(PIXELS).pooler_output)
    larger = torch.nn.functional.interpolate(PIXELS, 64)
    assert loaded(tmp_path, CLIP_SPEC, 17, loader="dinov3", image_size=64)(larger).shape[2] == 17


def first(output: Any) -> Tensor:
    """Of what a layer gives, the hidden states."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def with_mean(outputs: list[Tensor]) -> list[Tensor]:
    return [torch.cat((one.mean(dim=1, keepdim=True), one), dim=1) for one in outputs]


def test_videomae(tmp_path: Path) -> None:
    config = VideoMAEConfig(**SIZES, **PICTURES, num_frames=4, use_mean_pooling=False)
    model = saved(VideoMAEForPreTraining(config), tmp_path).videomae
    spec = {**TIMESFORMER_SPEC, "loader": "videomae", "frames": 4}
    tokens = loaded(tmp_path, spec, 9)(FILM)
    recorded: list[Tensor] = []
    for layer in model.encoder.layer:
        layer.register_forward_hook(lambda *given: recorded.append(given[-1]))
    with torch.no_grad():
        last = model(FILM).last_hidden_state
        same(tokens, with_mean([model.layernorm(one) for one in recorded]))
    torch.testing.assert_close(tokens[:, -1, 1:], last)
    with pytest.raises(BackboneError, match="for frames: 4, image_size: 32; say so"):
        loaded(tmp_path, {**spec, "frames": 8}, 17)


def test_vjepa2(tmp_path: Path) -> None:
    config = VJEPA2Config(
        **{**SIZES, "patch_size": 16, "crop_size": 32, "frames_per_clip": 8},
        **{"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1},
    )
    model = saved(VJEPA2Model(config), tmp_path)
    spec = {**TIMESFORMER_SPEC, "loader": "vjepa2", "frames": 4}  # fewer than it was trained with
    tokens = loaded(tmp_path, spec, 9)(FILM)
    recorded: list[Tensor] = []
    for layer in model.encoder.layer:
        layer.register_forward_hook(lambda *given: recorded.append(given[-1][0]))
    with torch.no_grad():
        last = model(FILM, skip_predictor=True).last_hidden_state
        same(tokens, with_mean([model.encoder.layernorm(one) for one in recorded]))
    torch.testing.assert_close(tokens[:, -1, 1:], last)
    with pytest.raises(BackboneError, match="for image_size: 32; say so"):
        loaded(tmp_path, {**spec, "image_size": 64}, 33)


@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("kind", [(HubertConfig, HubertModel), (WavLMConfig, WavLMModel)])
def test_encoders_of_speech(tmp_path: Path, kind: tuple[Any, Any], stable: bool) -> None:
    """The base ones and, `stable`, the large ones, whose waveforms are normalised."""
    config = kind[0](
        **SIZES,
        conv_dim=(16, 16, 16),
        conv_stride=(5, 4, 4),
        conv_kernel=(10, 8, 4),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        do_stable_layer_norm=stable,
        feat_extract_norm="layer" if stable else "group",
    )
    model = saved(kind[1](config), tmp_path)
    extractor = Wav2Vec2FeatureExtractor(do_normalize=stable)
    extractor.save_pretrained(tmp_path)
    spec = {**CLIP_SPEC, "modality": "audio", "loader": "waveform", "audio": "waveform"}
    spec |= {"sampling_rate": 16000, "seconds": 0.5}
    for key in ("image_size", "mean", "std"):
        del spec[key]
    length = model._get_feat_extract_output_lengths(8000)
    tokens = loaded(tmp_path, spec, 1 + int(length))(SOUND)
    inputs = extractor(list(SOUND.numpy()), sampling_rate=16000, return_tensors="pt").input_values
    recorded: list[Tensor] = []
    for layer in model.encoder.layers:
        layer.register_forward_hook(
            lambda *given: recorded.append(
                given[-1][0] if isinstance(given[-1], tuple) else given[-1]
            )
        )
    with torch.no_grad():
        last = model(inputs).last_hidden_state
        norm = model.encoder.layer_norm if stable else nn.Identity()
        same(tokens, with_mean([norm(one) for one in recorded]))
    torch.testing.assert_close(tokens[:, -1, 1:], last, atol=1e-4, rtol=1e-4)


def test_what_is_no_encoder_of_speech(tmp_path: Path) -> None:
    tiny_clip(tmp_path)
    spec = {**CLIP_SPEC, "modality": "audio", "loader": "waveform", "audio": "waveform"}
    spec |= {"sampling_rate": 16000, "seconds": 0.5}
    for key in ("image_size", "mean", "std"):
        del spec[key]
    with pytest.raises(BackboneError, match=r"lacks .* preprocessor_config\.json"):
        loaded(tmp_path, spec, 5)
    write_json(tmp_path / "preprocessor_config.json", {"do_normalize": True})
    with pytest.raises(BackboneError, match="holds a 'clip' model, not one of hubert, wavlm"):
        loaded(tmp_path, spec, 5)


def test_pictures_frame_by_frame(tmp_path: Path) -> None:
    tiny_clip(tmp_path)
    picture = loaded(tmp_path, CLIP_SPEC, 5)
    film = {**TIMESFORMER_SPEC, "loader": "clip", "frames": 4}
    kept = loaded(tmp_path, film, 17)(FILM)
    frames = torch.stack([picture(FILM[:, i]) for i in range(4)], dim=2)  # [B, L, F, T, D]
    torch.testing.assert_close(kept[:, :, 0], frames[:, :, :, 0].mean(dim=2))
    for i in range(4):
        torch.testing.assert_close(kept[:, :, 1 + 4 * i : 5 + 4 * i], frames[:, :, i, 1:])
    averaged = loaded(tmp_path, film, 5, time_average=True)(FILM)
    torch.testing.assert_close(averaged, frames.mean(dim=2))
    mean = loaded(tmp_path, film, 17, cls_is_mean_pool=True)(FILM)
    torch.testing.assert_close(mean[:, :, 0], kept[:, :, 1:].mean(dim=2))
