"""Training settings: the `train` block of the settings, an override, a dataset or a method."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import Field, model_validator

from depalm.specs.base import (
    Compute,
    Distinct,
    Fraction,
    Number,
    Positive,
    Probability,
    Rate,
    Spec,
    fault,
)

LENGTH = {"steps", "epochs"}  # either replaces the other


class ValidationSpec(Spec):
    """Validation during training, on samples that are held out of it."""

    every: Positive = Field(
        50, description="optimizer steps between validations; one ends training"
    )
    part: Annotated[Number, Gt(0), Lt(1)] = Field(
        0.05, description="of the training samples' media that is held out"
    )
    rows: Positive = Field(1000, description="samples of it that are used, at most")
    keep: Literal["last", "best"] = Field(
        "last", description="the adapter of the last step, or that of the lowest validation loss"
    )
    patience: Positive | None = Field(
        None, description="validations in turn without a lower loss that end training"
    )


class TuneSpec(Spec):
    """Fair tuning: for every method the best of the same candidates, by successive halving."""

    lr: Annotated[list[Rate], MinLen(1), Distinct] = Field(
        description="candidates for train.lr, for every method the same"
    )
    steps: Annotated[list[Positive], MinLen(1), Distinct] | None = Field(
        None, description="candidates for train.steps; by default each run's own length"
    )
    factor: Annotated[Positive, Ge(2)] = Field(
        2, description="one of so many goes on to the next round, which trains as many times longer"
    )
    share: Annotated[Number, Gt(0), Le(1)] = Field(
        1.0, description="of a run's steps that the last round trains"
    )
    part: Annotated[Number, Gt(0), Lt(1)] = Field(
        0.1, description="of the training samples' media that is held out to choose by"
    )
    rows: Positive = Field(1000, description="samples of it that are used, at most")
    seed: Annotated[int, Ge(0)] = Field(0, description="of its trainings, and of their subset")

    @model_validator(mode="after")
    def _check_candidates(self) -> Self:
        if len(self.candidates) < 2:
            raise fault("one candidate leaves nothing to choose", at="lr")
        return self

    @property
    def candidates(self) -> list[dict[str, Any]]:
        """Settings of training to choose from."""
        lengths: list[dict[str, Any]] = [{}]
        if self.steps is not None:
            lengths = [{"steps": steps} for steps in self.steps]
        return [{"lr": rate, **length} for rate in self.lr for length in lengths]

    @property
    def rounds(self) -> list[tuple[int, float]]:
        """Of each round how many candidates train, and for what share of a run's steps."""
        counts = [len(self.candidates)]
        while counts[-1] > self.factor:
            counts.append(math.ceil(counts[-1] / self.factor))
        return [
            (count, self.share * self.factor ** (i + 1 - len(counts)))
            for i, count in enumerate(counts)
        ]


class TrainSpec(Spec):
    """Training settings. A missing key is taken from a more general place."""

    batch_size: Positive = Field(16, description="samples that go through the LLM at a time")
    accumulate: Positive = Field(1, description="batches that make one optimizer step")
    accumulation: Literal["mean", "sum"] = Field(
        "mean", description="of the losses of a step's batches"
    )
    leftovers: Literal["use", "drop"] = Field(
        "use",
        description="batches at the end of an epoch that make no full step: go into the next step, "
        "or are left out",
    )
    steps: Positive | None = Field(None, description="optimizer steps; or give epochs")
    epochs: Rate | None = Field(None, description="passes over the data (8); or give steps")
    lr: Rate = Field(8e-4, description="highest learning rate")
    weight_decay: Number = Field(0.1, ge=0, description="of AdamW")
    adam_epsilon: Rate = Field(1e-4, description="of AdamW")
    warmup: Probability = Field(0.2, description="fraction of the steps over which the rate rises")
    schedule: Literal["steps", "batches"] = Field(
        "steps",
        description="steps: from lr / warm-up steps up to lr at the last warm-up step; batches: "
        "from final_lr up to lr behind it, counted in batches, of which a step takes the last "
        "one's rate",
    )
    final_lr: Fraction = Field(1e-4, description="fraction of lr at the last step")
    clip_norm: Rate = Field(0.8, description="norm that gradients are clipped to")
    label_smoothing: Probability = Field(2e-3, description="of the cross entropy")
    max_answer_tokens: Positive = Field(50, description="longer references are cut")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "bfloat16", description="of the frozen LLM; the adapter is always float32"
    )
    compute: Compute = Field(
        "tf32", description="of the adapter, whose weights are float32, whatever it is"
    )
    texts_per_image: Positive = Field(
        1,
        description="texts that stand behind an image together: its questions, or captions; "
        "batch_size then counts images",
    )
    checkpoint_seconds: Number = Field(300.0, ge=0, description="time between checkpoints")
    frozen_dropout: bool = Field(
        False,
        description="dropout of the frozen LLM (and drop path of a backbone in the loop) while the "
        "adapter trains, as their configurations have it",
    )
    init_from: str | None = Field(
        None, description="folder of an adapter that training starts from"
    )
    validation: ValidationSpec | None = Field(
        None, description="hold samples out, and look at the loss on them"
    )
    augment: bool = Field(
        True, description="with `features: online`: change every file anew in each epoch"
    )

    def over(self, base: "TrainSpec") -> "TrainSpec":
        """These settings; `base` fills the missing keys."""
        said, kept = self.given(), base.given()
        if said.keys() & LENGTH:
            kept = {key: kept[key] for key in kept.keys() - LENGTH}
        return TrainSpec.model_validate(kept | said)

    def with_chosen(self, chosen: Mapping[str, Any]) -> "TrainSpec":
        """These settings with those that tuning has chosen."""
        return TrainSpec.model_validate(chosen).over(self)


# what a training needs to be told; any other default follows from the spec
TRAIN_DEFAULTS = TrainSpec(epochs=8, **TrainSpec().model_dump(include={"batch_size", "lr"}))
