"""A frozen backbone as extraction runs it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from depalm.backbones.base import Backbone
from depalm.backbones.load import load_backbone
from depalm.cache.store import view_folder
from depalm.identity import encoder_identity, token_identity
from depalm.precision import autocast, float32_products
from depalm.specs import BackboneSpec


@dataclass(frozen=True)
class Encoder:
    """What decides the tokens of a file: a backbone by its name, its spec and the folder of its
    weights, the view, the dtype in which tokens are kept, the precision in which it computes (see
    `depalm.precision`), and whether its blocks are compiled.

    View 0 of a file is clean, the others are augmented, each in its own way.
    """

    name: str
    spec: BackboneSpec
    weights: Path
    view: int = 0
    dtype: str = "float16"
    compute: str = "tf32"
    compiled: bool = False

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What decides the tokens; to know it, the weights are read once."""
        precision = self.dtype, self.compute, self.compiled
        return encoder_identity(self.spec, self.weights, self.view, *precision)

    def load(self, device: torch.device | str) -> Backbone:
        """The backbone. Raises BackboneError."""
        model = load_backbone(self.spec, self.weights).to(device)
        if self.compiled:
            model.compile_blocks()
        return model

    def folder(self, store: Path) -> Path:
        """Where the store keeps its shards."""
        of_all_views = {**self.identity, **token_identity(self.spec)}
        return view_folder(store, self.name, of_all_views, self.view)

    def tokens(self, model: Backbone, inputs: Tensor) -> list[Tensor]:
        """Inputs [B, ...] of the loaded `model` -> L x [B, T, D]."""
        compute, device = self.compute, inputs.device
        with torch.inference_mode(), float32_products(compute, device), autocast(compute, device):
            return model.layers(inputs)
