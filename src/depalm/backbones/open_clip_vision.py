"""The vision halves of CLIP models of open_clip: its own transformers and ResNets, and timm's."""

from pathlib import Path

import open_clip
import timm
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from safetensors import SafetensorError
from torch import Tensor, nn

from depalm.backbones.base import Backbone, PooledBackbone, mean_first
from depalm.backbones.files import BackboneError, weight_files
from depalm.backbones.vision import of_timm
from depalm.files import read_json
from depalm.specs import BackboneSpec


class OpenClipViT(PooledBackbone):
    """A vision transformer of open_clip, on pixels [B, 3, H, W]. The summary token is CLS, or the
    mean of the patches where the model pools by it (CLIPA).

    The final norm is where the model has it: on every token, or on what is pooled alone. With
    attention pooling (CoCa) the tokens are those that the pooler reads, without a norm.
    """

    def __init__(self, vision: VisionTransformer, mean_pool: bool = False):
        self.norm_is_last = vision.final_ln_after_pool and vision.attn_pool is None
        plain = self.norm_is_last or vision.attn_pool is not None
        norm = nn.Identity() if plain else vision.ln_post
        tokens, width = vision.positional_embedding.shape
        parts = vision, vision.transformer.resblocks, norm, tokens - 1, width
        self.averages = vision.pool_type == "avg" and vision.attn_pool is None
        has_cls = not self.averages and not self.norm_is_last
        super().__init__(*parts, mean_pool, prefix=1, has_cls=has_cls)

    def pooled(self, tokens: Tensor) -> Tensor:
        summary = super().pooled(tokens) if self.averages else tokens[:, 0]
        return self.model.ln_post(summary) if self.norm_is_last else summary  # type: ignore[operator]


class OpenClipResNet(Backbone):
    """The last map of a ResNet of CLIP, on pixels [B, 3, H, W]; its mean is the summary token. It
    is one output; each of the `layers` is the same.
    """

    def __init__(self, vision: ModifiedResNet, layers: int):
        pool = vision.attnpool  # with a position for the mean, and one for each place of the map
        super().__init__(layers, *pool.positional_embedding.shape)
        self.model = vision

    def tokens(self, inputs: Tensor) -> list[Tensor]:
        vision = self.model
        grid = vision.stem(inputs)
        for stage in (vision.layer1, vision.layer2, vision.layer3, vision.layer4):
            grid = stage(grid)
        places = grid.flatten(2).transpose(1, 2)  # [B, D, rows, columns] -> [B, T - 1, D]
        return [mean_first(places)] * self.shape["layers"]


def load_open_clip(spec: BackboneSpec, weights: Path) -> Backbone:
    """CLIP of open_clip, with open_clip_config.json beside its weights; the text half is left out.

    Raises BackboneError.
    """
    weight_files(weights)
    _refuse_other_models(weights / "open_clip_config.json")
    try:
        model = open_clip.create_model(
            f"local-dir:{weights}", precision="fp32", device="cpu", weights_only=True
        )
    except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
        raise BackboneError(f"{weights} holds no model of open_clip: {error}") from error
    return of_open_clip(spec, model.visual)


def of_open_clip(spec: BackboneSpec, vision: nn.Module) -> Backbone:
    """The backbone of the vision half of a model of open_clip. Raises BackboneError."""
    if isinstance(vision, VisionTransformer):
        return OpenClipViT(vision, spec.cls_is_mean_pool)
    if isinstance(vision, ModifiedResNet):
        return OpenClipResNet(vision, spec.shape.layers)
    if isinstance(vision, TimmModel):
        return of_timm(spec, vision.trunk)
    raise BackboneError(f"{type(vision).__name__} is no vision half of open_clip that is known")


def _refuse_other_models(path: Path) -> None:
    """Raise BackboneError if the configuration of open_clip names a model that would be fetched.

    open_clip would get it from wherever the name leads, with the code that may be there. The names
    of timm's own models lead nowhere.
    """
    try:
        config = read_json(path)["model_cfg"]
        text = config["text_cfg"].get("hf_model_name")
        vision = config["vision_cfg"].get("timm_model_name")
        fetched = config["vision_cfg"].get("timm_model_pretrained", False)
        known = vision is None or timm.is_model(vision)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise BackboneError(f"{path} is no configuration of open_clip: {error!r}") from error
    for key, name, refused in (
        ("text_cfg.hf_model_name", text, text is not None),
        ("vision_cfg.timm_model_name", vision, not known or fetched),
    ):
        if refused:
            raise BackboneError(
                f"{path} asks for the model {name!r} from elsewhere ({key}), which may bring code "
                "of its own; it is refused. Use a model with both halves of open_clip or timm"
            )
