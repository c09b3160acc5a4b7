"""The loaders of backbones by name; what loads a backbone is imported on first use."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from depalm.registry import Registry
from depalm.specs import BackboneSpec

if TYPE_CHECKING:
    from depalm.backbones.base import Backbone

# what loads encoders of pictures, which see a video frame by frame
PICTURES = ("timm", "clip", "open_clip", "siglip", "dinov3")
LOADERS: Registry["Callable[[BackboneSpec, Path], Backbone]"] = Registry(
    {
        "timm": "depalm.backbones.vision:load_timm",
        "clip": "depalm.backbones.vision:load_clip",
        "open_clip": "depalm.backbones.open_clip_vision:load_open_clip",
        "ast": "depalm.backbones.audio_video:load_ast",
        "clap": "depalm.backbones.audio_video:load_clap",
        "whisper": "depalm.backbones.audio_video:load_whisper",
        "waveform": "depalm.backbones.speech:load_waveform_encoder",
        "siglip": "depalm.backbones.transformers_vision:load_siglip",
        "dinov3": "depalm.backbones.transformers_vision:load_dinov3",
        "videomae": "depalm.backbones.video:load_videomae",
        "vjepa2": "depalm.backbones.video:load_vjepa2",
        "timesformer": "depalm.backbones.audio_video:load_timesformer",
        "disabled": "depalm.backbones.load:load_disabled",
    }
)
