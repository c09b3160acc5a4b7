"""A backbone's spec and weights -> the backbone."""

from pathlib import Path

from torch import Tensor

from depalm.backbones.base import Backbone
from depalm.backbones.files import BackboneError
from depalm.backbones.registry import LOADERS, PICTURES
from depalm.sources.model_folder import ModelFolderError, check_model_folder
from depalm.specs import BackboneSpec


def load_backbone(spec: BackboneSpec, weights: Path) -> Backbone:
    """The backbone of `spec` with the weights in a directory: frozen, in evaluation mode, float32,
    on the CPU.

    Raises BackboneError if the weights are missing, are another model's, the model has not the
    shape that `spec` states, or its directory asks for code of its own, which is not run.
    """
    loader = LOADERS.get(spec.loader)
    if loader is None:
        raise BackboneError(f"unknown loader {spec.loader!r}; there are: {sorted(LOADERS)}")
    try:
        check_model_folder(weights)
    except ModelFolderError as error:
        raise BackboneError(str(error)) from error
    backbone = loader(spec, weights)
    if spec.modality == "video" and spec.loader in PICTURES:
        from depalm.backbones.video import FrameByFrame

        assert spec.frames is not None
        taken = spec.frames, spec.time_average, spec.cls_is_mean_pool
        backbone = FrameByFrame(backbone, *taken)
    backbone.eval().requires_grad_(False)
    stated = {name: getattr(spec.shape, name) for name in backbone.shape}
    if backbone.shape != stated:
        raise BackboneError(
            f"{spec.model or weights} has the shape {backbone.shape}, but its YAML says "
            f"{stated}: correct the one that is wrong (tokens depend on the input size)"
        )
    return backbone


class Disabled(Backbone):
    """No backbone at all: tokens that are zero, the summary token too, whatever the inputs are."""

    def tokens(self, inputs: Tensor) -> list[Tensor]:
        zeros = inputs.new_zeros(len(inputs), self.shape["tokens"], self.shape["width"])
        return [zeros] * self.shape["layers"]


def load_disabled(spec: BackboneSpec, weights: Path) -> Backbone:  # noqa: ARG001
    shape = spec.shape
    return Disabled(shape.layers, shape.tokens, shape.width, spec.cls_is_mean_pool)
