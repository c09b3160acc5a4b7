"""Encoders of pictures as transformers has them, beside CLIP: SigLIP and DINOv3."""

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import DINOv3ViTModel, SiglipVisionModel

from depalm.backbones.base import Backbone, PooledBackbone, load_transformers
from depalm.backbones.files import BackboneError
from depalm.specs import BackboneSpec


class Siglip(PooledBackbone):
    """The vision half of SigLIP, or of SigLIP 2 at a fixed size, on pixels [B, 3, H, W]; the
    summary token is what its attention pooling makes of each layer.
    """

    def __init__(self, model: SiglipVisionModel, mean_pool: bool = False):
        vision: Any = getattr(model, "vision_model", model)  # older transformers have it inside
        if not getattr(vision, "use_head", True):
            raise BackboneError("this SigLIP has no attention pooling")
        layers, norm = vision.encoder.layers, vision.post_layernorm
        width, patches = model.config.hidden_size, vision.embeddings.num_patches
        super().__init__(vision, layers, norm, patches, width, mean_pool)

    def pooled(self, tokens: Tensor) -> Tensor:
        head: Any = self.model.head
        found: Tensor = head(tokens)
        return found


def load_siglip(spec: BackboneSpec, weights: Path) -> Backbone:
    """SigLIP of transformers; the text half is left out. Raises BackboneError."""
    return Siglip(load_transformers(SiglipVisionModel, weights), spec.cls_is_mean_pool)


class DINOv3(PooledBackbone):
    """DINOv3's vision transformers, on pixels [B, 3, H, W] of any size; CLS is the summary token,
    registers are dropped.
    """

    def __init__(self, model: DINOv3ViTModel, image_size: int, mean_pool: bool = False):
        config = model.config
        patches = (image_size // config.patch_size) ** 2
        prefix = 1 + config.num_register_tokens
        parts = model, model.model.layer, model.norm, patches, config.hidden_size
        super().__init__(*parts, mean_pool, prefix, has_cls=True)


def load_dinov3(spec: BackboneSpec, weights: Path) -> Backbone:
    """DINOv3 of transformers at `image_size` pixels. Raises BackboneError."""
    assert spec.image_size is not None
    model = load_transformers(DINOv3ViTModel, weights)
    return DINOv3(model, spec.image_size, spec.cls_is_mean_pool)
