"""A backbone's file: config/backbones/{name}.yaml."""

from typing import Annotated, Any, Literal, Self

from annotated_types import MaxLen, MinLen
from pydantic import Field, model_validator

from depalm.specs.base import (
    Number,
    Positive,
    Probability,
    Rate,
    Registered,
    Spec,
    Version,
    fault,
)
from depalm.specs.llm import SourceSpec, one_of_source_and

# what a backbone of each kind takes: the keys that it needs, and those that it has no use for
PICTURES = ({"image_size", "mean", "std"}, {"audio", "sampling_rate", "seconds", "mel_bins"})
SOUND = ({"audio", "sampling_rate", "seconds"}, {"image_size", "crop_pct", "video_reader"})
KEYS: dict[str, tuple[set[str], set[str]]] = {
    "image": (PICTURES[0], PICTURES[1] | {"frames", "video_reader"}),
    "video": (PICTURES[0] | {"frames"}, PICTURES[1]),
    "fbank": (SOUND[0] | {"frames", "mel_bins", "mean", "std"}, SOUND[1]),
    "waveform": (SOUND[0], SOUND[1] | {"mean", "std", "frames", "mel_bins"}),
    "log_mel": (SOUND[0] | {"mel_bins"}, SOUND[1] | {"mean", "std", "frames"}),
    "none": (set(), set()),
}
Share = Annotated[Number, Field(gt=0, le=1)]
Colours = Annotated[list[Number], MinLen(3), MaxLen(3)]
PositiveColours = Annotated[list[Rate], MinLen(3), MaxLen(3)]


class BackboneShape(Spec):
    """The tokens that a backbone gives; `tokens` counts the summary token."""

    layers: Positive
    tokens: Positive
    width: Positive
    grid: Annotated[list[Positive], MinLen(1), MaxLen(3)] | None = Field(
        None,
        description="[rows, columns] or [frames, rows, columns] of patches that are not a square, "
        "[patches] of a sequence",
    )


class BackboneSpec(Spec):
    """A frozen encoder of images, audio or video."""

    version: Version
    modality: Literal["image", "audio", "video", "none"]
    loader: Annotated[str, Registered("loader")] = Field(description="the library that loads it")
    source: SourceSpec | None = Field(None, description="where it is fetched from")
    path: str | None = Field(None, description="directory with the weights, instead of source")
    convert: Annotated[str, Registered("converter")] | None = Field(
        None, description="conversion of the fetched weights"
    )
    model: str | None = Field(None, description="architecture of the loader (timm, clap)")
    image_size: Positive | None = Field(None, description="pixels of a side")
    mean: Number | Colours | None = Field(
        None, description="of red, green and blue, or of filterbank energies, for normalisation"
    )
    std: Rate | PositiveColours | None = Field(None, description="likewise")
    crop_pct: Share | None = Field(
        None,
        description="the square is enlarged to image_size / crop_pct, and its centre taken, as "
        "timm evaluates (0.9 for most of its models)",
    )
    video_reader: Literal["pyav", "decord"] | None = Field(
        None, description="library that reads videos (pyav); what decord cannot read PyAV does"
    )
    frames: Positive | None = Field(None, description="of a video, or of a filterbank (10 ms each)")
    audio: Literal["fbank", "waveform", "log_mel"] | None = Field(
        None, description="what the model takes of audio"
    )
    sampling_rate: Annotated[int, Field(ge=8000)] | None = Field(None, description="in Hz")
    seconds: Rate | None = Field(None, description="of audio that are used")
    mel_bins: Positive | None = Field(None, description="of filterbank or log_mel")
    final_norm: bool = Field(True, description="whether tokens go through the final norm")
    cls_is_mean_pool: bool = Field(
        False, description="the mean of the tokens in the place of the CLS token"
    )
    time_average: bool = Field(
        False, description="the mean over the frames (timesformer, and pictures frame by frame)"
    )
    token_order: Literal["frames", "patches"] = Field(
        "frames",
        description="timesformer: frame by frame, or all frames of a patch together as the model "
        "has them",
    )
    drop_path: Probability = Field(
        0.0, description="timesformer: that of its training, for train.frozen_dropout online"
    )
    position_interpolation: Literal["timm", "dinov2"] = Field(
        "timm",
        description="of a timm model's position embeddings: antialiased, or as DINOv2's own code "
        "does it (no antialiasing, offset 0.1)",
    )
    shape: BackboneShape

    def take(self, *keys: str) -> dict[str, Any]:
        """The values of keys that this kind of backbone has, with their defaults."""
        return {key: getattr(self, key) for key in keys}

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if (self.loader == "disabled") != (self.modality == "none"):
            raise fault("modality: none and loader: disabled go together")
        if self.loader != "disabled":
            one_of_source_and("path", self)
        if self.loader in ("timm", "clap") and self.model is None:
            raise fault(f"loader {self.loader} needs model")
        self._check_media()
        return self

    def _check_media(self) -> None:
        """What the files become that the model takes: each kind has its keys, and no others."""
        if self.modality == "audio" and self.audio is None:
            raise fault("modality: audio needs audio, one of fbank, waveform, log_mel")
        kind = (self.audio or "") if self.modality == "audio" else self.modality
        needed, useless = KEYS[kind]
        given = {key for key in needed | useless if getattr(self, key) is not None}
        if missing := sorted(needed - given):
            raise fault(f"a backbone of {kind} needs {', '.join(missing)}")
        if extra := sorted(given & useless):
            raise fault(f"{', '.join(extra)}: does not apply to a backbone of {kind}")
        pictures = self.modality in ("image", "video")
        if any(isinstance(v, list) != pictures for v in (self.mean, self.std) if v is not None):
            raise fault(f"mean and std of {kind} are {'lists of three' if pictures else 'numbers'}")
        if kind == "log_mel" and self.seconds != int(self.seconds or 0):
            raise fault("seconds: log_mel takes whole seconds")
