"""Each kind of encoder: read from the files that are published, the tokens of the library's own
model; the real ones, without weights, have the shapes that the paper states.
"""

import argparse
import importlib.util
import math
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize
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

from depalm.backbones.audio_video import AST, TimeSformer, Whisper, build_clap
from depalm.backbones.base import Backbone
from depalm.backbones.files import BackboneError
from depalm.backbones.load import load_backbone
from depalm.backbones.open_clip_vision import of_open_clip
from depalm.backbones.registry import LOADERS
from depalm.backbones.speech import WaveformEncoder
from depalm.backbones.video import VJEPA2, FrameByFrame, VideoMAE
from depalm.backbones.vision import ClipViT, build_timm, dinov2_positions, of_timm
from depalm.config.schema import check_schema, load_yaml
from depalm.files import read_checked, write_json
from depalm.sources.conversion import ConvertError
from depalm.sources.convert import convert
from depalm.sources.weight_formats import read_pytorch
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

CONFIG = Path(__file__).parents[2] / "config" / "backbones"
PARTS = sorted(path.stem for path in CONFIG.glob("*.yaml"))
SOURCE = {"uri": "file:///x", "sha256": "0" * 64, "revision": None}
PIXELS = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
FBANK = torch.linspace(-1, 1, 2 * 64 * 32).sin().view(2, 64, 32)
FILM = torch.linspace(-9, 9, 2 * 4 * 3 * 32 * 32).sin().view(2, 4, 3, 32, 32)

needs_clap = pytest.mark.skipif(
    importlib.util.find_spec("laion_clap") is None,
    reason="laion_clap is not installed: pip install -c constraints.txt --no-deps laion-clap",
)


def spec_of(name: str) -> dict[str, Any]:
    return load_yaml(CONFIG / f"{name}.yaml")


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


# ---------------------------------------------------------------- full size, without weights


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


# ---------------------------------------------------------------- PyTorch's checkpoints


def converted(tmp_path: Path, content: Any, name: str) -> Path:
    """`content` as a fetched checkpoint, converted."""
    download = tmp_path / "download"
    download.mkdir()
    torch.save(content, download / name)
    write_json(download / "source.json", SOURCE)
    convert(download, tmp_path / "model", "pytorch")
    return tmp_path / "model"


def test_a_checkpoint_of_transformers(tmp_path: Path) -> None:
    """pytorch_model.bin, as some models on the hub are only published."""
    model = tiny_timesformer(tmp_path / "published")
    expected = load_backbone(backbone_spec(TIMESFORMER_SPEC), tmp_path / "published")(FILM)
    download = tmp_path / "download"
    download.mkdir()
    (download / "config.json").write_bytes((tmp_path / "published/config.json").read_bytes())
    weights = tmp_path / "model"
    torch.save(model.state_dict(), download / "pytorch_model.bin")
    write_json(download / "source.json", SOURCE)
    convert(download, weights, "pytorch")
    names = ["config.json", "model.safetensors", "source.json"]
    assert sorted(path.name for path in weights.iterdir()) == names
    assert read_checked(weights / "source.json") == {**SOURCE, "converter": "pytorch"}
    assert load_backbone(backbone_spec(TIMESFORMER_SPEC), weights)(FILM).equal(expected)


class Evil:
    """What a pickle can do: call something when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    content = {"model": {"x": torch.zeros(1)}, "args": Evil(tmp_path / "ran")}
    with pytest.raises(ConvertError, match="not a checkpoint of plain data"):
        converted(tmp_path, content, "model.pth")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.zeros(1)], torch.zeros(1)])
def test_a_checkpoint_without_named_tensors(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ConvertError, match=r"model\.pth holds no tensors by name"):
        converted(tmp_path, content, "model.pth")


def test_numbers_of_numpy_1_are_read_by_any_numpy(tmp_path: Path) -> None:
    """The name of their class is another than in numpy 2."""
    torch.save({"state_dict": {"x": torch.ones(3)}, "map": np.float64(0.5)}, tmp_path / "new.pt")
    with (
        zipfile.ZipFile(tmp_path / "new.pt") as new,
        zipfile.ZipFile(tmp_path / "old.pt", "w") as old,
    ):
        for name in new.namelist():
            old.writestr(name, new.read(name).replace(b"numpy._core.", b"numpy.core."))
    assert b"numpy.core.multiarray\nscalar" in (tmp_path / "old.pt").read_bytes()
    assert read_pytorch(tmp_path / "old.pt")["x"].equal(torch.ones(3))


def test_a_truncated_checkpoint(tmp_path: Path) -> None:
    download = tmp_path / "download"
    download.mkdir()
    write_json(download / "source.json", SOURCE)
    torch.save({"x": torch.zeros(1000)}, download / "model.pt")
    (download / "model.pt").write_bytes((download / "model.pt").read_bytes()[:2000])
    with pytest.raises(ConvertError, match=r"model\.pt is not a checkpoint"):
        convert(download, tmp_path / "model", "pytorch")


def test_several_checkpoints_without_an_index(tmp_path: Path) -> None:
    download = tmp_path / "download"
    download.mkdir()
    write_json(download / "source.json", SOURCE)
    for name in ("a.pt", "b.pt"):
        torch.save({"x": torch.zeros(1)}, download / name)
    with pytest.raises(ConvertError, match=r"must hold one checkpoint .*a\.pt.*b\.pt"):
        convert(download, tmp_path / "model", "pytorch")


def test_another_class_of_model_is_told(tmp_path: Path) -> None:
    """Which transformers would load, with weights at random."""
    tiny_ast(tmp_path)
    with pytest.raises(BackboneError, match=r"'audio-spectrogram-transformer' model, .* 'whisper'"):
        load_backbone(backbone_spec(WHISPER_SPEC), tmp_path)
    with pytest.raises(BackboneError, match=r"but the loader is for 'clip_vision_model'"):
        load_backbone(backbone_spec(CLIP_SPEC), tmp_path)
