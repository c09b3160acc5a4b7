"""Training of one run (rule `train`)."""

from dataclasses import dataclass, field, fields
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
    operations. With several `processes` each has a GPU, or `threads` of the CPU, and a part of
    every batch; with `shard_llm` also a part of the LLM's layers. The same `seed`, `device`,
    `threads` and `processes` give the same bytes.
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
    processes: int = 1
    shard_llm: bool = False

    @property
    def dtype(self) -> str:
        """That of the LLM."""
        return self.train.dtype

    def run(self) -> None:
        """Raises AdapterError, CacheError, LLMError or TrainingError; if shards are
        streamed DownloadError, online BackboneError, DecodingError, MediaError and RejectError.
        """
        from depalm.jobs.work.train import train_run

        train_run(self)


@dataclass(frozen=True, kw_only=True)
class TrainSeedsJob(RunJob):
    """Train the adapters of some seeds of one run, one after another, with one copy of the LLM in
    memory: the same bytes as by a job for each.

    There is a `subset`, `adapter`, `record`, `curve` and `rejects` for each of the `seeds`, and
    `expected` is what was predicted of one of them. The rest is as in a training of one seed: the
    samples of `manifest`, the folders `llm_directory` and `backbone_directory`, `features` (kind
    none, cached or online) with their `workers`, the contents `method`, `backbone` and `llm` of the
    YAML files, the settings `prompt`, `train` and `template`, the file `tuned` and its `tune`,
    `tracking`, `device` and `threads`.
    """

    command: ClassVar[str] = "train-seeds"

    subset: list[str]
    train: TrainSpec
    tuned: str | None = None
    tune: TuneSpec | None = None
    seeds: list[int]
    template: str = "{question}"
    adapter: list[str]
    record: list[str]
    curve: list[str]
    tracking: str | None = None
    rejects: list[str]
    expected: dict[str, Any] = field(default_factory=dict)

    @property
    def jobs(self) -> list[TrainJob]:
        """The training of each seed."""
        each = ("subset", "adapter", "record", "curve", "rejects")
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "seeds"}
        return [
            TrainJob(**{**values, **{name: values[name][i] for name in each}, "seed": seed})
            for i, seed in enumerate(self.seeds)
        ]

    def run(self) -> None:
        """Raises as `TrainJob.run`."""
        from depalm.jobs.work.train import train_runs

        train_runs(self.jobs)
