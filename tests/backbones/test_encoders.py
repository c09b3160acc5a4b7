"""Tokens of tiny models against the library's own, and weights that are missing or wrong."""

import argparse
import importlib.util
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from depalm.backbones.audio_video import build_clap
from depalm.backbones.files import BackboneError
from depalm.backbones.load import load_backbone
from depalm.backbones.vision import dinov2_positions
from depalm.files import write_json
from depalm.sources.conversion import ConvertError
from depalm.sources.convert import convert
from tests.support.backbones import FILM, SOURCE, converted, spec_of
from tests.support.encoders import (
    AST_SPEC,
    CLIP_SPEC,
    OPEN_CLIP_SPEC,
    TIMESFORMER_SPEC,
    WHISPER_SPEC,
    randomise,
    tiny_ast,
    tiny_clip,
    tiny_open_clip,
    tiny_timesformer,
    tiny_whisper,
)
from tests.support.specs import backbone_spec

PIXELS = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
FBANK = torch.linspace(-1, 1, 2 * 64 * 32).sin().view(2, 64, 32)

needs_clap = pytest.mark.skipif(
    importlib.util.find_spec("laion_clap") is None,
    reason="laion_clap is not installed: pip install -c constraints.txt --no-deps laion-clap",
)


# ---------------------------------------------------------------- tokens of tiny models


def test_clip(tmp_path: Path) -> None:
    vision = tiny_clip(tmp_path).vision_model
    with torch.inference_mode():
        output = vision(PIXELS, output_hidden_states=True)
        expected = [vision.post_layernorm(hidden) for hidden in output.hidden_states[1:]]
    tokens = load_backbone(backbone_spec(CLIP_SPEC), tmp_path)(PIXELS)
    torch.testing.assert_close(tokens, torch.stack(expected, dim=1))
    torch.testing.assert_close(tokens[:, -1, 0], output.pooler_output)


def test_ast_has_its_pooled_output_in_front(tmp_path: Path) -> None:
    model = tiny_ast(tmp_path).audio_spectrogram_transformer
    with torch.inference_mode():
        output = model(FBANK)
    tokens = load_backbone(backbone_spec(AST_SPEC), tmp_path)(FBANK)
    assert tokens.shape == (2, 3, 13, 32)
    torch.testing.assert_close(tokens[:, -1, 0], output.pooler_output)
    torch.testing.assert_close(tokens[:, -1, 1:], output.last_hidden_state)
    assert not tokens[:, 0].equal(tokens[:, 1])


def test_whisper_has_the_mean_in_front(tmp_path: Path) -> None:
    encoder = tiny_whisper(tmp_path).model.encoder
    mel = torch.linspace(-1, 1, 2 * 8 * 40).sin().view(2, 8, 40)
    with torch.inference_mode():
        output = encoder(mel, output_hidden_states=True)
        first = encoder.layer_norm(output.hidden_states[1])
    tokens = load_backbone(backbone_spec(WHISPER_SPEC), tmp_path)(mel)
    torch.testing.assert_close(tokens[:, -1, 1:], output.last_hidden_state)
    torch.testing.assert_close(tokens[:, 0, 1:], first)
    torch.testing.assert_close(tokens[:, :, 0], tokens[:, :, 1:].mean(dim=2))


def test_positions_of_dinov2_are_interpolated_as_its_authors_do() -> None:
    """Cubic convolution (a = -0.75) by hand, at the places that a grid larger by 0.1 has."""
    side, size = 7, 4
    positions = torch.randn(1, 1 + side * side, 5, dtype=torch.float64)

    def weights(rows: int) -> torch.Tensor:
        matrix = torch.zeros(rows, side, dtype=torch.float64)
        for i in range(rows):
            place = (i + 0.5) * side / (rows + 0.1) - 0.5
            for j in range(math.floor(place) - 1, math.floor(place) + 3):
                x = abs(place - j)
                near = 1.25 * x**3 - 2.25 * x**2 + 1
                far = -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
                matrix[i, min(max(j, 0), side - 1)] += near if x <= 1 else far
        return matrix

    grid = positions[0, 1:].view(side, side, 5)
    expected = torch.einsum("ia,jb,abd->ijd", weights(size), weights(size), grid)
    found = dinov2_positions(positions, size, size)
    torch.testing.assert_close(found[0, 1:].double(), expected.view(-1, 5), atol=1e-5, rtol=1e-5)
    assert found[:, 0].equal(positions[:, 0].to(found.dtype))
    assert dinov2_positions(positions, side, side).equal(positions)


def test_a_timm_model_on_filterbanks_without_final_norm(tmp_path: Path) -> None:
    """As MAViL: a .pth with the arguments of its training, a classifier and another final norm."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=(64, 32), in_chans=1)
    randomise(model)
    outputs: list[Tensor] = []
    for block in model.blocks:
        block.register_forward_hook(lambda *args: outputs.append(args[-1]))
    with torch.inference_mode():
        model.forward_features(FBANK.unsqueeze(1))
    state = {name.replace("norm.", "fc_norm.", name.startswith("norm.")): tensor
             for name, tensor in model.state_dict().items()}  # fmt: skip
    weights = converted(tmp_path, {"model": state, "args": argparse.Namespace(lr=0.1)}, "mavil.pth")
    spec = {
        **AST_SPEC,
        "loader": "timm",
        "model": "vit_tiny_patch16_224",
        "final_norm": False,
        "shape": {"layers": 12, "tokens": 9, "width": 192},
    }
    tokens = load_backbone(backbone_spec(spec), weights)(FBANK)
    torch.testing.assert_close(tokens, torch.stack(outputs, dim=1))
    mean = load_backbone(backbone_spec({**spec, "cls_is_mean_pool": True}), weights)(FBANK)
    torch.testing.assert_close(mean[:, :, 1:], tokens[:, :, 1:])
    torch.testing.assert_close(mean[:, :, 0], tokens[:, :, 1:].mean(dim=2))


def test_eva_in_the_form_of_open_clip(tmp_path: Path) -> None:
    """In half precision, with the text half beside it, as timm's eva02 CLIPs are published."""
    model = randomise(timm.create_model("eva02_tiny_patch14_224", img_size=28, num_classes=0))
    for parameter in model.parameters():
        parameter.data = parameter.half().float()
    state = {f"visual.trunk.{name}": tensor.half() for name, tensor in model.state_dict().items()}
    state["text.token_embedding.weight"] = torch.zeros(3, 3)
    save_file(state, tmp_path / "open_clip_model.safetensors")
    spec = {
        **CLIP_SPEC,
        "loader": "timm",
        "model": "eva02_tiny_patch14_224",
        "image_size": 28,
        "final_norm": False,
        "shape": {"layers": 12, "tokens": 5, "width": 192},
    }
    pixels = PIXELS[..., :28, :28]
    with torch.inference_mode():
        maps = model.forward_intermediates(
            pixels, norm=False, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )
    expected = torch.stack([torch.cat((cls, patches), dim=1) for patches, cls in maps], dim=1)
    backbone = load_backbone(backbone_spec(spec), tmp_path)
    assert {parameter.dtype for parameter in backbone.parameters()} == {torch.float32}
    torch.testing.assert_close(backbone(pixels), expected)


def test_disabled_gives_zeros(tmp_path: Path) -> None:
    spec = spec_of("disabled")
    tokens = load_backbone(backbone_spec(spec), tmp_path / "nothing")(PIXELS)
    assert tokens.equal(torch.zeros(2, 1, 1, 1))


# ---------------------------------------------------------------- Whisper for CTranslate2


def save_ct2(encoder: WhisperEncoder, path: Path, dtype: str = "<f4", kind: int = 0) -> None:
    """Write an encoder as CTranslate2 does: query, key and value in one, the key without bias."""
    weights = {name: tensor.numpy() for name, tensor in encoder.state_dict().items()}
    variables: dict[str, tuple[int, np.ndarray[Any, Any]]] = {}
    names = {
        "self_attn_layer_norm.": "self_attention/layer_norm/",
        "final_layer_norm.": "ffn/layer_norm/",
        "self_attn.out_proj.": "self_attention/linear_1/",
        "fc1.": "ffn/linear_0/",
        "fc2.": "ffn/linear_1/",
        "embed_positions.weight": "position_encodings/encodings",
        "conv1.": "conv1/",
        "conv2.": "conv2/",
        "layer_norm.": "layer_norm/",
    }
    for name, array in weights.items():
        _, number, rest = name.split(".", 2) if name.startswith("layers.") else ("", "", name)
        place = f"encoder/layer_{number}/" if number else "encoder/"
        if rest.startswith("self_attn.q_proj."):
            kinds = [name.replace("q_proj", f"{part}_proj") for part in "qkv"]
            parts = [weights.get(n, np.zeros(32)) for n in kinds]
            variables[f"{place}self_attention/linear_0/{rest[17:]}"] = (kind, np.concatenate(parts))
        elif not rest.startswith(("self_attn.k_proj.", "self_attn.v_proj.")):
            theirs = next(n for n in names if rest.startswith(n))
            new = names[theirs] + rest.removeprefix(theirs)
            if "norm/" in new:
                new = new.replace("weight", "gamma").replace("bias", "beta")
            variables[place + new] = (kind, array)
    variables["decoder/layer_0/self_attention/linear_0/weight"] = (kind, np.ones((2, 3)))
    variables["encoder/num_heads"] = (2, np.array(4))

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    content = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, (number_kind, array) in sorted(variables.items()):
        data = array.astype({kind: dtype, 2: "<i2"}[number_kind]).tobytes()
        content += text(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        content += struct.pack("<BI", number_kind, len(data)) + data
    path.write_bytes(content + struct.pack("<I", 0))


def test_whisper_for_ctranslate2(tmp_path: Path) -> None:
    encoder = tiny_whisper(tmp_path / "published").model.encoder
    mel = torch.linspace(-1, 1, 2 * 8 * 40).sin().view(2, 8, 40)
    expected = load_backbone(backbone_spec(WHISPER_SPEC), tmp_path / "published")(mel)
    download = tmp_path / "download"
    download.mkdir()
    write_json(download / "source.json", SOURCE)
    save_ct2(encoder, download / "model.bin")
    convert(download, tmp_path / "model", "whisper_ct2")
    torch.testing.assert_close(
        load_backbone(backbone_spec(WHISPER_SPEC), tmp_path / "model")(mel), expected
    )
    save_ct2(encoder, download / "model.bin", "<f2", kind=4)
    convert(download, tmp_path / "model", "whisper_ct2")
    half = load_backbone(backbone_spec(WHISPER_SPEC), tmp_path / "model")(mel)
    torch.testing.assert_close(half, expected, atol=0.02, rtol=0.02)
    content = (download / "model.bin").read_bytes()
    for damaged in (content[:100], content.replace(b"Whisper", b"Whimper"), b"\x05" + content[1:]):
        (download / "model.bin").write_bytes(damaged)
        with pytest.raises(ConvertError, match=r"model\.bin is not a WhisperSpec of CTranslate2"):
            convert(download, tmp_path / "model", "whisper_ct2")


# ---------------------------------------------------------------- CLAP


@needs_clap
def test_clap_reads_the_checkpoint_of_the_whole(tmp_path: Path) -> None:
    """With everything that the published ones hold beside the audio half: the text half, numpy's
    numbers, and the prefix of DataParallel.
    """
    branch, projection = build_clap("HTSAT-tiny")
    torch.manual_seed(0)
    state = {f"module.audio_branch.{k}": v for k, v in branch.state_dict().items()}
    state |= {f"module.audio_projection.{k}": v for k, v in projection.state_dict().items()}
    state["module.text_branch.embeddings.position_ids"] = torch.arange(3)
    whole = {"epoch": 7, "metrics": {"map": np.float64(0.5)}, "state_dict": state}
    weights = converted(tmp_path, whole, "630k-audioset-best.pt")
    waveform = torch.linspace(0, 3000, 2 * 480000).sin().view(2, 480000)
    tokens = load_backbone(backbone_spec(spec_of("clap")), weights)(waveform)
    quantised = torch.from_numpy((waveform.numpy() * 32767.0).astype(np.int16) / 32767.0).float()
    with torch.inference_mode():
        output = branch.eval()({"waveform": quantised}, device="cpu")
        pooled = normalize(projection(output["embedding"]), dim=-1)
        fine = normalize(projection(output["fine_grained_embedding"]), dim=-1)
    assert tokens.shape == (2, 8, 1025, 512)
    torch.testing.assert_close(tokens[:, 0, 0], pooled, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(tokens[:, 0, 1:], fine, atol=1e-5, rtol=1e-3)
    assert tokens[:, 7].equal(tokens[:, 0])


@needs_clap
def test_clap_unknown_model_and_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"laion_clap has no 'HTSAT-huge'; it has .*HTSAT-tiny"):
        load_backbone(backbone_spec({**spec_of("clap"), "model": "HTSAT-huge"}), tmp_path)
    save_file({"audio_branch.x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(BackboneError, match="weights of the audio_branch of HTSAT-tiny"):
        load_backbone(backbone_spec(spec_of("clap")), tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("laion_clap") is not None, reason="it is installed")
def test_clap_without_laion_clap_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"'\.\[clap\]'\n.* --no-deps laion-clap"):
        load_backbone(backbone_spec(spec_of("clap")), tmp_path)


# ---------------------------------------------------------------- the summary token


@pytest.mark.parametrize(
    ("tiny", "content", "inputs"),
    [
        (tiny_clip, CLIP_SPEC, PIXELS),
        (tiny_open_clip, OPEN_CLIP_SPEC, PIXELS),
        (tiny_ast, AST_SPEC, FBANK),
        (tiny_whisper, WHISPER_SPEC, torch.linspace(-1, 1, 2 * 8 * 40).view(2, 8, 40)),
        (tiny_timesformer, TIMESFORMER_SPEC, FILM),
    ],
)
def test_the_mean_of_the_others_may_be_the_summary_token_of_every_loader(
    tmp_path: Path, tiny: Any, content: dict[str, Any], inputs: Tensor
) -> None:
    tiny(tmp_path)
    tokens = load_backbone(backbone_spec(content), tmp_path)(inputs)
    mean = load_backbone(backbone_spec({**content, "cls_is_mean_pool": True}), tmp_path)(inputs)
    assert mean[:, :, 1:].equal(tokens[:, :, 1:])
    torch.testing.assert_close(mean[:, :, 0], tokens[:, :, 1:].mean(dim=2))


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("tiny", "spec"),
    [
        (tiny_clip, CLIP_SPEC),
        (tiny_ast, AST_SPEC),
        (tiny_whisper, WHISPER_SPEC),
        (tiny_timesformer, TIMESFORMER_SPEC),
    ],
)
def test_missing_and_damaged_weights_are_named(tmp_path: Path, tiny: Any, spec: Any) -> None:
    """Nothing is left at random, as transformers does by itself."""
    tiny(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    gone = next(n for n in sorted(state) if ".1." in n and "text" not in n and "decoder" not in n)
    save_file({n: state[n] for n in state if n != gone}, path, metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=r"does not hold the weights .*: it lacks .*\.1\."):
        load_backbone(backbone_spec(spec), tmp_path)
    path.write_bytes(b"damaged")
    with pytest.raises(BackboneError, match=str(tmp_path)):
        load_backbone(backbone_spec(spec), tmp_path)
    path.unlink()
    with pytest.raises(BackboneError, match=r"no \.safetensors; fetch or convert"):
        load_backbone(backbone_spec(spec), tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(BackboneError, match=r"no config\.json; fetch"):
        load_backbone(backbone_spec(spec), tmp_path)


def test_another_shape_than_stated(tmp_path: Path) -> None:
    tiny_timesformer(tmp_path)
    with pytest.raises(BackboneError, match=r"'tokens': 25, .*but its YAML says .*'tokens': 17"):
        load_backbone(backbone_spec({**TIMESFORMER_SPEC, "frames": 6}), tmp_path)
