"""The backbones by the library that loads them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from depalm.backbones.audio_video import load_ast, load_clap, load_timesformer, load_whisper
from depalm.backbones.base import Backbone, BackboneError, weight_files
from depalm.backbones.vision import load_clip, load_open_clip, load_timm
from depalm.files import read_json, sha256_file, sha256_json
from depalm.sources.model_folder import ModelFolderError, check_model_folder


class Disabled(Backbone):
    """No backbone at all: tokens that are zero, whatever the inputs are."""

    def __init__(self, shape: Mapping[str, int]):
        super().__init__()
        self.shape = dict(shape)

    def tokens(self, inputs: Tensor) -> Tensor:
        sizes = (self.shape[axis] for axis in ("layers", "tokens", "width"))
        return inputs.new_zeros(len(inputs), *sizes)


def load_disabled(spec: Mapping[str, Any], weights: Path) -> Backbone:  # noqa: ARG001
    return Disabled(spec["shape"])


def load_backbone(spec: Mapping[str, Any], weights: Path | str) -> Backbone:
    """The backbone of `spec` (config/backbones/*.yaml) with the weights in a directory: frozen, in
    evaluation mode, float32, on the CPU.

    Raises BackboneError if the weights are missing, are another model's, the model has not the
    shape that `spec` states, or its directory asks for code of its own, which is not run.
    """
    loader = LOADERS.get(spec["loader"])
    if loader is None:
        raise BackboneError(f"unknown loader {spec['loader']!r}; there are: {sorted(LOADERS)}")
    try:
        check_model_folder(Path(weights))
    except ModelFolderError as error:
        raise BackboneError(str(error)) from error
    backbone = loader(spec, Path(weights)).eval().requires_grad_(False)
    backbone.cls_is_mean_pool = spec.get("cls_is_mean_pool", False)
    stated = {key: value for key, value in spec["shape"].items() if key != "grid"}
    if backbone.shape != stated:
        raise BackboneError(
            f"{spec.get('model', weights)} has the shape {backbone.shape}, but its YAML says "
            f"{stated}: correct the one that is wrong (tokens depend on the input size)"
        )
    return backbone


def weights_identity(weights: Path | str) -> str:
    """What tells these weights from others: SHA-256 of the content of source.json (where they are
    from, and their checksum there), or of the safetensors if nobody fetched them.
    """
    source = Path(weights) / "source.json"
    if source.is_file():
        return sha256_json(read_json(source))
    files = {path.name: sha256_file(path) for path in weight_files(Path(weights))}
    return sha256_json(files) if len(files) > 1 else next(iter(files.values()))


LOADERS: dict[str, Callable[[Mapping[str, Any], Path], Backbone]] = {
    "timm": load_timm,
    "clip": load_clip,
    "open_clip": load_open_clip,
    "ast": load_ast,
    "clap": load_clap,
    "whisper": load_whisper,
    "timesformer": load_timesformer,
    "disabled": load_disabled,
}
