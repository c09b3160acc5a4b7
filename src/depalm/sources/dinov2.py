"""DINOv2 ViT-S/14 in two forms -> safetensors in timm's layout."""

from collections.abc import Mapping
from pathlib import Path

import onnx
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from depalm.sources.conversion import ConvertError, only_file, save

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


def convert_dinov2_onnx(download: Path, output: Path) -> None:
    """ONNX export of a network on top of DINOv2 ViT-S/14 -> model.safetensors of DINOV2_SMALL.

    Of the export just the encoder is taken, and must fill the timm model exactly. Writes into
    `output`, which exists. Raises ConvertError unless `download` holds exactly one such .onnx file.
    """
    path = only_file(download, "*.onnx")
    try:
        graph = onnx.load(path).graph
    except Exception as error:  # protobuf has error types of its own
        raise ConvertError(f"{path} cannot be read as ONNX: {error}") from error
    save(_fill_timm(_encoder_of_export(graph), path), output)


def convert_dinov2_hf(download: Path, output: Path) -> None:
    """DINOv2 ViT-S/14 in transformers' layout (its form on the hub) -> that of DINOV2_SMALL.

    Writes model.safetensors into `output`, which exists.
    Raises ConvertError unless `download` holds exactly one .safetensors file of that model.
    """
    path = only_file(download, "*.safetensors")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ConvertError(f"{path} cannot be read as safetensors: {error}") from error
    state.pop("embeddings.mask_token", None)  # used in DINOv2's own training only
    save(_fill_timm(state, path), output)


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
