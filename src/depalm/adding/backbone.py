"""The file of a backbone, from timm's registry, or from the config.json of a model's folder."""

from pathlib import Path
from typing import Any

import timm
import torch

from depalm.adding.model_source import ModelSource, opened
from depalm.adding.part import AddError, Part, part_name
from depalm.backbones import BackboneError, build_timm, of_timm
from depalm.files import read_json
from depalm.specs import BackboneSpec

TIMM = "timm://"


def backbone_part(target: str, name: str | None = None, image_size: int | None = None) -> Part:
    """The file of the backbone at `target`: timm://name, hf://owner/name, or a folder in the layout
    of timm, or of CLIP or Whisper in transformers.

    The shape of its tokens is that of the model as it is built at `image_size`, by default its
    publisher's. Raises AddError if it is none that can be used.
    """
    if target.startswith(TIMM):
        return _from_registry(target.removeprefix(TIMM), name, image_size)
    with opened(target) as source:
        try:
            config = read_json(source.folder / "config.json")
            if "architecture" in config:
                return _from_timm_folder(target, source, config, name, image_size)
            kind = config.get("model_type")
            if kind not in TRANSFORMERS:
                raise AddError(
                    f"{target} holds a {kind!r} model; {', '.join(TRANSFORMERS)} and models of "
                    "timm are added by themselves, others by hand: docs/extend/backbone.md"
                )
            entries = TRANSFORMERS[kind](source.folder, config)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AddError(f"{target} cannot be understood: {error!r}") from error
        about = [f"{target} ({source.terms})" if source.terms else target]
        *rest, shape = entries
        return Part("backbone", name or part_name(target), about, [*rest, *source.entries, shape])


def _from_registry(model: str, name: str | None, image_size: int | None) -> Part:
    published = timm.get_pretrained_cfg(model)
    if published is None:
        near = timm.list_models(f"*{model.partition('.')[0]}*", pretrained=True)[:5]
        hint = f"; there are {', '.join(near)}" if near else ""
        raise AddError(f"timm publishes no model {model!r}{hint}")
    if not published.hf_hub_id:
        raise AddError(f"timm publishes {model!r} not on the hub: fetch it, and add its folder")
    tagged = f"{published.architecture}.{published.tag}" if published.tag else model
    about = [f"{tagged} of timm ({published.license or 'licence not stated'})"]
    repository = published.hf_hub_id.rstrip("/")
    repository += "" if repository.count("/") else f"/{tagged}"
    source: list[tuple[str, Any, str]] = [("source", {"uri": f"hf://{repository}"}, "")]
    entries = _timm_entries(published.architecture, published.to_dict(), source, image_size)
    return Part("backbone", name or part_name(tagged), about, entries)


def _from_timm_folder(
    target: str, source: ModelSource, config: Any, name: str | None, image_size: int | None
) -> Part:
    published = {**config, **config.get("pretrained_cfg", {})}
    terms = source.terms or published.get("license") or "licence not stated"
    entries = _timm_entries(config["architecture"], published, source.entries, image_size)
    return Part("backbone", name or part_name(target), [f"{target} ({terms})"], entries)


def _timm_entries(
    model: str, published: Any, source: list[tuple[str, Any, str]], image_size: int | None
) -> list[tuple[str, Any, str]]:
    usual = published["input_size"][-1]
    size = image_size or usual
    colours = {key: [float(value) for value in published[key]] for key in ("mean", "std")}
    entries: list[tuple[str, Any, str]] = [
        ("modality", "image", ""),
        ("loader", "timm", ""),
        *source,
        ("model", model, ""),
        ("image_size", size, "" if size == usual else f"published for {usual}"),
    ]
    if published.get("crop_pct", 1) != 1:
        entries.append(
            ("crop_pct", published["crop_pct"], "of the enlarged square, as timm evaluates")
        )
    if "dinov2" in model:
        entries.append(("position_interpolation", "dinov2", "as its authors do"))
    entries += [(key, value, "") for key, value in colours.items()]
    return [*entries, ("shape", _timm_shape(entries), "tokens: the summary token and the patches")]


def _timm_shape(entries: list[tuple[str, Any, str]]) -> dict[str, int]:
    """The shape of the model's tokens, of a model without weights."""
    given = {key: value for key, value, _ in entries}
    first = {"layers": 1, "tokens": 1, "width": 1}
    spec = BackboneSpec.model_validate({"version": 1, **given, "shape": first})
    try:
        with torch.device("meta"):
            return of_timm(spec, build_timm(spec)).shape
    except BackboneError as error:
        raise AddError(str(error)) from error


def _clip(folder: Path, config: Any) -> list[tuple[str, Any, str]]:
    vision = config.get("vision_config", config)
    size, patch = vision.get("image_size", 224), vision.get("patch_size", 32)
    colours = read_json(folder / "preprocessor_config.json")
    width, layers = vision.get("hidden_size", 768), vision.get("num_hidden_layers", 12)
    shape = {"layers": layers, "tokens": 1 + (size // patch) ** 2, "width": width}
    return [
        ("modality", "image", ""),
        ("loader", "clip", ""),
        ("image_size", size, ""),
        ("mean", colours["image_mean"], ""),
        ("std", colours["image_std"], ""),
        ("shape", shape, "tokens: CLS and the patches"),
    ]


def _whisper(folder: Path, config: Any) -> list[tuple[str, Any, str]]:
    sound = read_json(folder / "preprocessor_config.json")
    tokens = 1 + config["max_source_positions"]
    shape = {"layers": config["encoder_layers"], "tokens": tokens, "width": config["d_model"]}
    return [
        ("modality", "audio", ""),
        ("loader", "whisper", ""),
        ("audio", "log_mel", ""),
        ("mel_bins", config["num_mel_bins"], ""),
        ("sampling_rate", sound["sampling_rate"], "Hz"),
        ("seconds", sound["chunk_length"], "of each recording that are used"),
        ("shape", shape, "tokens: their mean, and the frames"),
    ]


TRANSFORMERS = {"clip": _clip, "clip_vision_model": _clip, "whisper": _whisper}
