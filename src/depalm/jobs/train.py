"""Training of one run (rule `train`)."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from depalm.jobs.run import RunJob
from depalm.specs import TrainSpec, TuneSpec


@dataclass(frozen=True, kw_only=True)
class TrainJob(RunJob):
    """Train the adapter of one run.

    Inputs are the samples of `manifest` whose ids the file `subset` lists, the weights of the LLM
    in `llm_directory`, and those of the backbone in `backbone_directory` (null for a method that
    reads no backbone). `features` says what the backbone's tokens are read from: kind none; kind
    cached, with receipts, views and store; or kind online, with the folder media, whose files
    `workers` processes decode (decode_seconds, max_reject_fraction). `method`, `backbone` and `llm`
    are the contents of the YAML files, `prompt` and `train` the settings of prompts and training;
    `template` makes the prompt of a question, for those who use the adapter. Outputs are the
    weights `adapter`, its `record`, the learning curve `curve` (one JSON object a line), and in
    `rejects` the samples without features. Checkpoints and TensorBoard scalars go to the folder
    training/ beside the adapter; a killed job goes on from there. `tracking` names a library that
    gets the learning curve too. If the method was tuned, the file `tuned` has what was chosen, and
    `tune` says among what. `expected` says what was predicted of the job, seconds and
    operations. The same `seed`, `device` and `threads` give the same bytes.
    """

    command: ClassVar[str] = "train"

    subset: str
    train: TrainSpec
    tuned: str | None = None
    tune: TuneSpec | None = None
    seed: int
    template: str = "{question}"
    adapter: str
    record: str
    curve: str
    tracking: str | None = None
    rejects: str
    expected: dict[str, Any] = field(default_factory=dict)

    def run(self) -> None:
        """Raises AdapterError, CacheError, LLMError or TrainingError; if shards are
        streamed DownloadError, online BackboneError, DecodingError, MediaError and RejectError.
        """
        from depalm.jobs.work.train import train_run

        train_run(self)
