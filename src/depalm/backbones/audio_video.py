"""Encoders of audio and video: AST, CLAP and Whisper, TimeSformer. (MAViL is in timm's form.)"""

import importlib.util
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import ASTModel, TimesformerModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from depalm.backbones.base import (
    Backbone,
    BlockBackbone,
    fill,
    load_transformers,
    mean_first,
    read_weights,
)
from depalm.backbones.files import BackboneError
from depalm.files import read_json
from depalm.specs import BackboneSpec


class AST(BlockBackbone):
    """Audio Spectrogram Transformer (Gong et al. 2021) on filterbanks [B, frames, bins].

    The summary token is the pooled output, the mean of its two class tokens, which stay among the
    others.
    """

    def __init__(self, model: ASTModel, mean_pool: bool = False):
        tokens = 1 + model.embeddings.position_embeddings.shape[1]
        width = model.config.hidden_size
        super().__init__(model, model.layers, model.layernorm, tokens, width, mean_pool)

    def arranged(self, output: Tensor) -> Tensor:
        pooled = (output[:, :1] + output[:, 1:2]) / 2  # as in transformers' pooler_output
        return torch.cat((pooled, output), dim=1)


def load_ast(spec: BackboneSpec, weights: Path) -> Backbone:
    """AST of transformers. Raises BackboneError."""
    return AST(load_transformers(ASTModel, weights), spec.cls_is_mean_pool)


class Whisper(BlockBackbone):
    """Whisper's encoder (Radford et al. 2022) on log-mel spectrograms [B, bins, frames].

    It has no CLS: the summary token is the mean of the tokens.
    """

    def __init__(self, model: WhisperEncoder, mean_pool: bool = False):
        tokens, width = 1 + model.config.max_source_positions, model.config.d_model
        super().__init__(model, model.layers, model.layer_norm, tokens, width, mean_pool)

    def arranged(self, output: Tensor) -> Tensor:
        return mean_first(output)


def load_whisper(spec: BackboneSpec, weights: Path) -> Backbone:
    """The encoder of a Whisper model of transformers. Raises BackboneError."""
    names = {r"^(model\.)?encoder\.": ""}
    model = load_transformers(WhisperEncoder, weights, key_mapping=names)
    return Whisper(model, spec.cls_is_mean_pool)


class TimeSformer(BlockBackbone):
    """TimeSformer (Bertasius et al. 2021) on pixels [B, F, 3, H, W] of F frames; the output of each
    block goes through the final norm. CLS is the summary token.

    The patches follow frame by frame (`order` "frames"), or as the model has them all frames of a
    patch together ("patches"); averaged over time they lie as those of one frame.
    """

    def __init__(
        self,
        model: TimesformerModel,
        frames: int,
        time_average: bool,
        order: str = "frames",
        mean_pool: bool = False,
    ):
        model.config.num_frames = frames  # the layers read it when they run
        tokens = 1 + model.embeddings.num_patches * (1 if time_average else frames)
        width = model.config.hidden_size
        super().__init__(model, model.encoder.layer, model.layernorm, tokens, width, mean_pool)
        self.frames, self.time_average, self.order = frames, time_average, order

    def arranged(self, output: Tensor) -> Tensor:
        if self.order == "patches" and not self.time_average:
            return output
        places = output[:, 1:].unflatten(1, (-1, self.frames))  # [B, patches, F, D]
        ordered = places.transpose(1, 2).flatten(1, 2)  # [B, F patches, D]
        patches = places.mean(dim=2) if self.time_average else ordered
        return torch.cat((output[:, :1], patches), dim=1)


def load_timesformer(spec: BackboneSpec, weights: Path) -> Backbone:
    """TimeSformer of transformers for `frames` frames; the time embedding is interpolated to them
    (nearest) as the model does it. Drop path rises from 0 in the first block to `drop_path` in the
    last. Raises BackboneError.
    """
    model = load_transformers(TimesformerModel, weights)
    if not spec.final_norm:
        model.layernorm = nn.Identity()
    if model.config.attention_type != "divided_space_time":
        raise BackboneError(f"{weights}: its attention is not divided in space and time")
    rates = torch.linspace(0, spec.drop_path, len(model.encoder.layer)).tolist()
    for layer, rate in zip(model.encoder.layer, rates, strict=True):
        layer.drop_path = DropPath(rate)
    taken = spec.take("frames", "time_average")
    return TimeSformer(model, **taken, order=spec.token_order, mean_pool=spec.cls_is_mean_pool)


class CLAP(Backbone):
    """The audio half of CLAP (Wu et al. 2023) on waveforms [B, samples] at 48 kHz within -1..1.

    The summary token is the embedding of the whole; the fine-grained one follows. Each goes through
    the audio projection and has length 1. It is one output; each of the `layers` is the same.
    """

    def __init__(
        self, audio_branch: Any, audio_projection: Any, layers: int, mean_pool: bool = False
    ):
        tokens: int = 1 + audio_branch.spec_size * audio_branch.freq_ratio
        super().__init__(layers, tokens, audio_projection[-1].out_features, mean_pool)
        self.audio_branch, self.audio_projection = audio_branch, audio_projection

    def tokens(self, inputs: Tensor) -> list[Tensor]:
        # 16-bit values, as laion_clap has them in training and inference
        waveform = (inputs.clamp(-1, 1) * 32767).to(torch.int16) / 32767
        output = self.audio_branch({"waveform": waveform}, device=inputs.device)
        whole, fine = output["embedding"], output["fine_grained_embedding"]  # [B, D], [B, T, D]
        tokens = torch.cat((whole.unsqueeze(1), fine), dim=1)
        tokens = normalize(self.audio_projection(tokens), dim=-1)
        return [tokens] * self.shape["layers"]


def load_clap(spec: BackboneSpec, weights: Path) -> Backbone:
    """The audio half of laion_clap's `model` (HTSAT-tiny, HTSAT-base), without fusion, from a
    converted checkpoint of the whole. Raises BackboneError.
    """
    branch, projection = build_clap(str(spec.model))
    state = read_weights(weights)
    for part, prefix in ((branch, "audio_branch."), (projection, "audio_projection.")):
        there = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        fill(part, there, f"the {prefix.rstrip('.')} of {spec.model}", weights)
    return CLAP(branch, projection, spec.shape.layers, spec.cls_is_mean_pool)


def build_clap(model: str) -> tuple[nn.Module, nn.Sequential]:
    """laion_clap's audio branch and audio projection with random weights. Raises BackboneError."""
    clap = _clap_module()
    path = Path(clap.__path__[0]) / "model_configs" / f"{model}.json"
    if not path.is_file():
        raise BackboneError(f"laion_clap has no {model!r}; it has {clap.list_models()}")
    config = read_json(path)
    branch = clap.htsat.create_htsat_model(clap.CLAPAudioCfp(**config["audio_cfg"]))
    projection = nn.Sequential(nn.Linear(config["embed_dim"], 512), nn.ReLU(), nn.Linear(512, 512))
    return branch, projection


def _clap_module() -> ModuleType:
    """The package `clap_module` inside of laion_clap, which itself cannot be imported without
    network: it downloads three text tokenizers at once.
    """
    if "clap_module" in sys.modules:
        return sys.modules["clap_module"]
    outer = importlib.util.find_spec("laion_clap")
    if outer is None:
        raise BackboneError(
            "the loader clap needs laion_clap; in the root of the checkout:\n"
            "pip install -c constraints.txt -e '.[clap]'\n"
            "pip install -c constraints.txt --no-deps laion-clap"
        )
    spec = PathFinder.find_spec("clap_module", list(outer.submodule_search_locations or []))
    if spec is None or spec.loader is None:
        raise BackboneError("laion_clap is damaged: it lacks clap_module; install it again")
    module = importlib.util.module_from_spec(spec)
    sys.modules["clap_module"] = module  # under this name laion_clap has it too
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        del sys.modules["clap_module"]
        raise BackboneError(f"laion_clap cannot be used: {error}") from error
    return module
