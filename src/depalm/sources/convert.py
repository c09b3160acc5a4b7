"""What is published -> what is read, once: GGUF language models, two forms of DINOv2, PyTorch's
checkpoints and Whisper for CTranslate2 to safetensors, TextVQA out of parquet.

No code that a file may hold is run: PyTorch's pickles are read as tensors and plain values only.
"""

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, WhisperConfig

from depalm.errors import DepalmError
from depalm.files import atomic_directory, read_json, write_json
from depalm.progress import logger
from depalm.sources.download import HUB_SUFFIXES, PICKLED_SUFFIXES
from depalm.sources.model_folder import ModelFolderError, check_model_folder
from depalm.sources.textvqa_parquet import convert_textvqa_parquet
from depalm.sources.weight_formats import CheckpointError, read_ct2, read_pytorch


class ConvertError(DepalmError):
    """A download that a converter cannot turn into the model or dataset it is meant to be."""


def convert(download: Path, output: Path, converter: str) -> None:
    """Convert what is in `download` by CONVERTERS[`converter`] into the directory `output`.

    `output` appears whole or not at all, always with a source.json: that of the download (see
    depalm.sources.fetch.fetch) and the converter's name. The same download gives the same bytes.
    Raises ConvertError, of a dataset AnnotationError, if the download is not what the converter
    reads, or asks for code of its own, which is not run.
    """
    if converter not in CONVERTERS:
        raise ConvertError(f"unknown converter {converter!r}; there are: {sorted(CONVERTERS)}")
    if not (download / "source.json").is_file():
        raise ConvertError(
            f"{download} has no source.json: it was not fetched whole; fetch it again"
        )
    try:
        check_model_folder(download)
    except ModelFolderError as error:
        raise ConvertError(str(error)) from error
    logger.info("convert %s by %s", download, converter)
    source = {**read_json(download / "source.json"), "converter": converter}
    with atomic_directory(output) as directory:
        CONVERTERS[converter](download, directory)
        write_json(directory / "source.json", source)


def convert_gguf(download: Path, output: Path) -> None:
    """GGUF language model -> config, tokenizer and float32 model.safetensors, for transformers.

    Quantised weights become the float32 values that they stand for; nothing is rounded here.
    Format: the GGUF specification of the ggml project. Writes into `output`, which exists.
    Raises ConvertError unless `download` holds exactly one .gguf that transformers can read.
    """
    path = _only_file(download, "*.gguf")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            download,
            gguf_file=path.name,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
        )
        tokenizer = AutoTokenizer.from_pretrained(
            download, gguf_file=path.name, local_files_only=True, trust_remote_code=False
        )
    except (ValueError, KeyError, IndexError, OSError, NotImplementedError) as error:
        raise ConvertError(
            f"{path} is not a GGUF language model that transformers reads: {error}"
        ) from error
    # `model.save_pretrained` refuses a model read from GGUF, though it is no longer quantised
    model.config.architectures = [type(model).__name__]
    del model.config.quantization_config
    model.config.save_pretrained(output)
    model.generation_config.save_pretrained(output)
    tokenizer.save_pretrained(output)
    _save(model.state_dict(), output)


def convert_dinov2_onnx(download: Path, output: Path) -> None:
    """ONNX export of a network on top of DINOv2 ViT-S/14 -> model.safetensors of DINOV2_SMALL.

    Of the export just the encoder is taken, and must fill the timm model exactly. Writes into
    `output`, which exists. Raises ConvertError unless `download` holds exactly one such .onnx file.
    """
    path = _only_file(download, "*.onnx")
    try:
        graph = onnx.load(path).graph
    except Exception as error:  # protobuf has error types of its own
        raise ConvertError(f"{path} cannot be read as ONNX: {error}") from error
    _save(_fill_timm(_encoder_of_export(graph), path), output)


def convert_dinov2_hf(download: Path, output: Path) -> None:
    """DINOv2 ViT-S/14 in transformers' layout (its form on the hub) -> that of DINOV2_SMALL.

    Writes model.safetensors into `output`, which exists.
    Raises ConvertError unless `download` holds exactly one .safetensors file of that model.
    """
    path = _only_file(download, "*.safetensors")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ConvertError(f"{path} cannot be read as safetensors: {error}") from error
    state.pop("embeddings.mask_token", None)  # used in DINOv2's own training only
    _save(_fill_timm(state, path), output)


def convert_pytorch(download: Path, output: Path) -> None:
    """PyTorch checkpoints (.bin, .pt, .pth) -> safetensors with the same names of tensors; config
    and tokenizer are taken along.

    One checkpoint becomes model.safetensors; the parts of a sharded one, pytorch_model-*.bin with
    an index as transformers writes it, become model-*.safetensors, one at a time. Writes into
    `output`, which exists. Raises ConvertError if something else than tensors and plain values is
    in them: it is not run.
    """
    paths = sorted(path for path in download.iterdir() if path.suffix in PICKLED_SUFFIXES)
    index = download / "pytorch_model.bin.index.json"
    if not paths or (len(paths) > 1 and not index.is_file()):
        raise ConvertError(
            f"{download} must hold one checkpoint {PICKLED_SUFFIXES}, or several with "
            f"{index.name}, but holds {sorted(path.name for path in download.iterdir())}"
        )
    names = {path.name: path.name.replace("pytorch_model", "model") for path in paths}
    names = {old: Path(new).with_suffix(".safetensors").name for old, new in names.items()}
    if len(paths) == 1:
        names = {paths[0].name: "model.safetensors"}
    for path in paths:
        try:
            _save(read_pytorch(path), output, names[path.name])
        except CheckpointError as error:
            raise ConvertError(str(error)) from error
    if len(paths) > 1:
        content = read_json(index)
        if strange := set(content["weight_map"].values()) - names.keys():
            raise ConvertError(f"{index} names {sorted(strange)}, which {download} does not hold")
        content["weight_map"] = {k: names[v] for k, v in content["weight_map"].items()}
        write_json(output / "model.safetensors.index.json", content)
    for path in download.iterdir():
        if path.suffix in HUB_SUFFIXES and path.name not in ("source.json", index.name):
            shutil.copyfile(path, output / path.name)


def convert_whisper_ct2(download: Path, output: Path) -> None:
    """The encoder of a Whisper model for CTranslate2 -> config.json and model.safetensors as those
    of transformers' WhisperModel.

    Writes into `output`, which exists. Raises ConvertError unless `download` holds a model.bin of
    that kind, in 16 or 32 bits.
    """
    path = _only_file(download, "model.bin")
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
    _save(state, output)


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


def _encoder_of_export(graph: onnx.GraphProto) -> dict[str, Tensor]:
    """The encoder's weights in an ONNX export, under the names that DINOv2 has on the hub.

    Exporting folds the linear weights (transposed) and the position embeddings of CLS [1, 1, D]
    and of the patches [1, T - 1, D] into nameless constants; the path of the node that uses one
    still tells which it is.
    """
    prefix = "backbone."
    constants = {
        tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
        for tensor in graph.initializer
    }
    state = {
        name.removeprefix(prefix): tensor
        for name, tensor in constants.items()
        if name.startswith(prefix)
    }
    positions = {}
    for node in graph.node:
        name = node.name.strip("/").replace("/", ".").removeprefix(prefix)
        folded = [constants[i] for i in node.input if i in constants and not i.startswith(prefix)]
        if not node.name.startswith("/backbone/") or not folded:
            continue
        if node.op_type == "MatMul":
            state[name.removesuffix("MatMul") + "weight"] = folded[0].T
        elif name.startswith("embeddings.") and folded[0].ndim == 3:
            positions[node.op_type] = folded[0]
    if positions.keys() == {"Concat", "Reshape"}:
        state["embeddings.position_embeddings"] = torch.cat(
            [positions["Concat"], positions["Reshape"]], dim=1
        )
    return state


def _fill_timm(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The state of DINOV2_SMALL, filled strictly from weights under the names of the hub."""
    model = timm.create_model(DINOV2_SMALL, img_size=518, num_classes=0)
    try:
        model.load_state_dict(_timm_layout(state), strict=True)
    except RuntimeError as error:
        raise ConvertError(
            f"{path} does not hold the weights of DINOv2 ViT-S/14: {error}"
        ) from error
    filled: dict[str, Tensor] = model.state_dict()
    return filled


def _timm_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under timm's names; query, key and value are stacked there."""
    renamed = {}
    for name in state:
        if ".key." in name or ".value." in name:
            continue
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        tensors = [state[part] for part in dict.fromkeys(parts) if part in state]
        for theirs, ours in TIMM_NAMES.items():
            name = name.replace(theirs, ours)
        renamed[name] = torch.cat(tensors)
    return renamed


def _only_file(directory: Path, pattern: str) -> Path:
    found = sorted(directory.glob(pattern))
    if len(found) != 1:
        names = [path.name for path in found] or sorted(path.name for path in directory.iterdir())
        raise ConvertError(f"{directory} must hold exactly one {pattern}, but holds {names}")
    return found[0]


def _save(state: Mapping[str, Tensor], directory: Path, name: str = "model.safetensors") -> None:
    """Write safetensors; of tied weights, which share memory, only the first is written."""
    first: dict[int, str] = {}
    for tied, tensor in state.items():
        first.setdefault(tensor.data_ptr(), tied)
    tensors = {key: state[key].contiguous() for key in first.values()}
    # one metadata key: safetensors writes several in a random order, and bytes must not differ
    path = directory / name
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors lets only the owner read


DINOV2_SMALL = "vit_small_patch14_dinov2"  # in timm; 518 pixels, 37 x 37 patches

# DINOv2's names on the hub (transformers' layout) -> in timm's VisionTransformer
TIMM_NAMES = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "encoder.layer.": "blocks.",
    "attention.attention.query": "attn.qkv",
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "layernorm.": "norm.",
}

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

CONVERTERS: dict[str, Callable[[Path, Path], None]] = {
    "gguf": convert_gguf,
    "dinov2_onnx": convert_dinov2_onnx,
    "dinov2_hf": convert_dinov2_hf,
    "textvqa_parquet": convert_textvqa_parquet,
    "pytorch": convert_pytorch,
    "whisper_ct2": convert_whisper_ct2,
}
