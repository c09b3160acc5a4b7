"""Whisper for CTranslate2 -> its encoder in transformers' layout."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperConfig

from depalm.sources.conversion import ConvertError, only_file, save
from depalm.sources.weight_formats import CheckpointError, read_ct2

# CTranslate2's names in Whisper's encoder -> transformers'
WHISPER_NAMES = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_0": "self_attn/qkv",
    "self_attention/linear_1": "self_attn/out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
    "position_encodings/encodings": "embed_positions/weight",
    "gamma": "weight",
    "beta": "bias",
}


def convert_whisper_ct2(download: Path, output: Path) -> None:
    """The encoder of a Whisper model for CTranslate2 -> config.json and model.safetensors as those
    of transformers' WhisperModel.

    Writes into `output`, which exists. Raises ConvertError unless `download` holds a model.bin of
    that kind, in 16 or 32 bits.
    """
    path = only_file(download, "model.bin")
    try:
        variables = read_ct2(path, "WhisperSpec")
    except CheckpointError as error:
        raise ConvertError(str(error)) from error
    state = _whisper_layout(variables)
    width, bins, _ = state["encoder.conv1.weight"].shape
    config = WhisperConfig(
        d_model=width,
        num_mel_bins=bins,
        max_source_positions=len(state["encoder.embed_positions.weight"]),
        encoder_layers=len([name for name in state if name.endswith("fc1.weight")]),
        encoder_ffn_dim=len(state["encoder.layers.0.fc1.weight"]),
        encoder_attention_heads=int(variables["encoder/num_heads"]),
    )
    config.save_pretrained(output)
    save(state, output)


def _whisper_layout(variables: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Tensor]:
    """The encoder's variables of CTranslate2 as float32 under transformers' names; query, key and
    value, stacked there [3 D, ...], are apart here, and the key has no bias.
    """
    state = {}
    for name, array in variables.items():
        if not name.startswith("encoder/") or array.ndim == 0:
            continue
        name = re.sub(r"/layer_(\d+)/", r"/layers/\1/", name)
        for theirs, ours in WHISPER_NAMES.items():
            name = name.replace(theirs, ours)
        name, tensor = name.replace("/", "."), torch.from_numpy(array.astype(np.float32))
        if ".qkv." not in name:
            state[name] = tensor
            continue
        for part, weights in zip("qkv", tensor.chunk(3), strict=True):
            if part != "k" or name.endswith("weight"):
                state[name.replace(".qkv.", f".{part}_proj.")] = weights
    return state
