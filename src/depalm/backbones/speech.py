"""Encoders of speech that take the waveform: HuBERT and WavLM."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import HubertModel, WavLMModel

from depalm.backbones.base import Backbone, PooledBackbone, load_transformers
from depalm.backbones.files import BackboneError
from depalm.files import read_json
from depalm.specs import BackboneSpec


class WaveformEncoder(PooledBackbone):
    """HuBERT (Hsu et al. 2021) or WavLM (Chen et al. 2021) on waveforms [B, samples] at 16 kHz; a
    token each 20 ms, whose mean is the summary token.

    The large ones end in a norm, the base ones do not. With `normalise` each waveform gets mean 0
    and variance 1 first, as the model's preprocessor_config.json says.
    """

    def __init__(self, model: Any, samples: int, normalise: bool, mean_pool: bool = False):
        encoder, config = model.encoder, model.config
        ends = config.do_stable_layer_norm
        norm = encoder.layer_norm if ends else torch.nn.Identity()
        tokens = int(model._get_feat_extract_output_lengths(samples))
        super().__init__(model, encoder.layers, norm, tokens, config.hidden_size, mean_pool)
        self.normalise = normalise

    def run(self, inputs: Tensor) -> None:
        if self.normalise:
            variance, mean = torch.var_mean(inputs, dim=1, correction=0, keepdim=True)
            inputs = (inputs - mean) / torch.sqrt(variance + 1e-7)
        self.model(inputs)


def load_waveform_encoder(spec: BackboneSpec, weights: Path) -> Backbone:
    """HuBERT or WavLM of transformers, whichever is there. Raises BackboneError."""
    assert spec.seconds is not None
    assert spec.sampling_rate is not None
    try:
        kind = read_json(weights / "config.json").get("model_type")
        normalise = bool(read_json(weights / "preprocessor_config.json")["do_normalize"])
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise BackboneError(
            f"{weights} lacks a config.json, or a preprocessor_config.json with do_normalize: "
            f"{error!r}"
        ) from error
    classes = {"hubert": HubertModel, "wavlm": WavLMModel}
    if kind not in classes:
        raise BackboneError(f"{weights} holds a {kind!r} model, not one of {', '.join(classes)}")
    model = load_transformers(classes[kind], weights)
    samples = round(spec.seconds * spec.sampling_rate)
    return WaveformEncoder(model, samples, normalise, spec.cls_is_mean_pool)
