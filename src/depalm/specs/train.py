"""Training settings: the `train` block of the settings, an override, a dataset or a method."""

from typing import Annotated, Literal

from annotated_types import Gt, Lt
from pydantic import Field

from depalm.specs.base import Compute, Fraction, Number, Positive, Probability, Rate, Spec

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


# what a training needs to be told; any other default follows from the spec
TRAIN_DEFAULTS = TrainSpec(epochs=8, **TrainSpec().model_dump(include={"batch_size", "lr"}))
