"""The choice of a method's settings (rule `tune`)."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from depalm.jobs.run import RunJob
from depalm.specs import TrainSpec, TuneSpec


@dataclass(frozen=True, kw_only=True)
class TuneJob(RunJob):
    """Choose the learning rate, and the steps, of a method by validation.

    Inputs are as those of a training: the samples of `manifest` whose ids the file `subset` lists,
    the weights of the LLM in `llm_directory`, and those of the backbone in `backbone_directory`
    (null for a method that reads no backbone). `features` says what the backbone's tokens are read
    from: kind none; kind cached, with receipts, views and store; or kind online, with the folder
    media, whose files `workers` processes decode (decode_seconds, max_reject_fraction). `method`,
    `backbone` and `llm` are the contents of the YAML files, `prompt` and `train` the settings of
    prompts and training. A part of the samples is held out; on the others the candidates of `tune`
    train in rounds, of which those of the lowest loss on what is held out go on (successive
    halving). Output is the file `tuned`: what was chosen, the loss of each trial, and what was
    spent. A killed job goes on where it was. `seed`, `device` and `threads` are those of the
    trainings; `expected` says what was predicted of the job, seconds and operations.
    """

    command: ClassVar[str] = "tune"

    subset: str
    train: TrainSpec
    tune: TuneSpec
    seed: int
    tuned: str
    expected: dict[str, Any] = field(default_factory=dict)

    def run(self) -> None:
        """Raises as `depalm.jobs.train.TrainJob.run`; TrainingError if every candidate fails."""
        from depalm.jobs.work.tune import tune_run

        tune_run(self)
