"""The settings: config/config.yaml or a file of one's own. Every key but `grid` has a default."""

from collections import Counter
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Le, MinLen
from pydantic import Field, model_validator

from depalm.specs.base import (
    Compute,
    Count,
    Distinct,
    Fraction,
    Natural,
    Number,
    PartNames,
    Positive,
    Rate,
    Spec,
    fault,
)
from depalm.specs.llm import PromptSpec
from depalm.specs.train import TrainSpec, TuneSpec

Seed = Annotated[int, Ge(0), Le(2**63 - 1)]
Seeds = Annotated[list[Seed], MinLen(1), Distinct]
FractionName = Annotated[str, Field(pattern=r"^[0-9.]+pct$")]
Fractions = Annotated[list[FractionName], MinLen(1), Distinct]
Features = Literal["cached", "online"]
# an integer is a number of rows, a number below 1 a part of them
Rows = Positive | Annotated[float, Field(gt=0, lt=1)] | None


class GridBlock(Spec):
    """Runs: the product of the lists."""

    datasets: PartNames
    backbones: PartNames
    llms: PartNames
    methods: PartNames
    fractions: Fractions = Field(description="parts of the training samples, e.g. 100pct, 1pct")
    seeds: Seeds


class WhereSpec(Spec):
    """Which runs: all that is listed must fit."""

    datasets: PartNames | None = None
    backbones: PartNames | None = None
    llms: PartNames | None = None
    methods: PartNames | None = None
    fractions: Fractions | None = None
    seeds: Seeds | None = None

    @model_validator(mode="after")
    def _check_some(self) -> Self:
        if not self.model_fields_set:
            raise fault("list what the runs are that the override is for")
        return self


class OverrideSpec(Spec):
    """Changes to the runs that fit `where`; later ones win."""

    where: WhereSpec
    checkpoint: str | None = Field(
        None, description="folder of a trained adapter: the runs are not trained, just tested"
    )
    features: Features | None = None
    method: dict[str, Any] = Field({}, description="keys of the method's file")
    train: TrainSpec = TrainSpec()

    @model_validator(mode="after")
    def _check_method(self) -> Self:
        if wrong := sorted({"label", "train", "version"} & self.method.keys()):
            raise fault(f"{', '.join(wrong)} cannot be overridden here", at="method")
        return self


class TableSpec(Spec):
    """A result table, with filters."""

    name: Annotated[str, Field(pattern="^[A-Za-z0-9_-]+$", max_length=200)]
    title: str
    datasets: PartNames | None = None
    fractions: Fractions | None = None
    backbones: PartNames | None = None
    llms: PartNames | None = None
    methods: PartNames | None = None
    rows: Literal["methods"] | None = Field(
        None, description="methods: one row for each, whichever backbone and LLM a column has"
    )
    published: str | None = Field(
        None, description="CSV of method, dataset, fraction, metric, mean: scores beside ours"
    )
    metrics: Literal["all"] | Annotated[list[str], MinLen(1)] | None = Field(
        None, description="all, or a list; by default the main metric of each dataset"
    )
    by: Literal["answer_type", "question_type"] | None = Field(
        None, description="a column for each type of questions behind that of all"
    )
    spread: Literal["deviation", "interval"] = Field(
        "deviation", description="beside a mean: over seeds, or 95% over seeds and samples"
    )
    per_seed: bool = Field(False, description="the score of each seed beside the mean")


class ReportPart(Spec):
    """A table of the report: the scores.json files of its runs, the CSV of published scores, and
    the runs that are missing, in words.
    """

    table: TableSpec
    scores: list[str]
    published: str | None = None
    missing: list[str] = Field(default_factory=list)


class CacheSpec(Spec):
    """The cache of backbone tokens."""

    shards: Positive = Field(1, description="shards, and extraction jobs, of a split")
    format: Literal["zarr", "webdataset"] = Field("zarr", description="of the shards")
    url: Annotated[str, Field(pattern="^(https?|file)://")] | None = Field(
        None, description="published token store to fetch shards from, instead of extracting them"
    )
    stream: bool = Field(False, description="read from the URL as needed, and store nothing")
    dtype: Literal["float16", "bfloat16"] = "float16"
    compute: Compute = Field("tf32", description="of the backbone, also where it is in the loop")
    compile: bool = Field(False, description="compile the backbone's blocks (torch.compile)")
    batch_size: Count = Field(
        "auto", description="files that go through the backbone at a time; auto: as many as fit"
    )
    workers: Positive = Field(1, description="processes that decode files")
    decode_seconds: Rate = Field(60.0, description="a file that takes longer is rejected")
    views: Positive = Field(
        1, description="1: training sees clean media; more: augmented views, one an epoch in turn"
    )

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        if self.stream and self.url is None:
            raise fault(
                "there is nothing to stream from; set cache.url to where the shards are "
                "published, or leave out cache.stream",
                at="stream",
            )
        if self.url is not None and self.format != "webdataset":
            raise fault(
                "zarr shards are directories, which are neither fetched nor streamed from "
                "cache.url; set it to webdataset",
                at="format",
            )
        return self


class MaxRows(Spec):
    """Rows of each split that are used: all (null), a number, or a part below 1."""

    train: Rows = None
    val: Rows = None
    test: Rows = None


class DataSpec(Spec):
    """How much of the data is used, and how much of it may be bad."""

    max_rows: MaxRows = MaxRows()
    template: Literal["first", "random"] | Natural | None = Field(
        None, description="which of a dataset's templates, instead of its own `selection`"
    )
    max_reject_fraction: Fraction = Field(
        0.001, description="more bad files or samples than this fail the job"
    )
    notice_edits: bool = Field(
        True, description="look for edited annotations, media and local models before each run"
    )


class GenerateSpec(Spec):
    """Generation of texts."""

    beams: Positive = 3
    max_new_tokens: Positive = 50
    batch_size: Count = Field("auto", description="samples at a time; auto: as many as fit")
    length_penalty: Number = Field(
        1.0, description="power of the length that a beam's log probability is divided by"
    )
    length_of: Literal["answer", "text"] = Field(
        "answer", description="that length: of the answer and EOS, or of prompt and answer"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of the frozen LLM"
    )
    compute: Compute = Field("tf32", description="of the adapter")
    fixed_shapes: bool = Field(
        False, description="steps of fixed shapes, which a GPU replays as one CUDA graph"
    )


class ThreadsSpec(Spec):
    """CPU threads of a job."""

    extract: Positive = 4
    train: Positive = 4
    generate: Positive = 4


class GPUsSpec(Spec):
    """GPUs of a job, each with a process of its own; where the device is the CPU, processes."""

    train: Positive = Field(1, description="each takes a part of every batch")
    generate: Positive = Field(1, description="each takes a part of the samples")
    shard_llm: bool = Field(
        False, description="each has a part of the LLM's layers: for one larger than a GPU"
    )

    @model_validator(mode="after")
    def _check_several(self) -> Self:
        if self.shard_llm and self.train == self.generate == 1:
            raise fault(
                "an LLM is sharded over several GPUs; set train and generate", at="shard_llm"
            )
        return self

    def sharded(self, processes: int) -> bool:
        """Whether the LLM of a job of so many processes is sharded."""
        return self.shard_llm and processes > 1


class SettingsSpec(Spec):
    """The runs and how they run. The shortest useful settings are a grid with its lists."""

    parts: Annotated[list[str], MinLen(1), Distinct] = Field(
        ["config"], description="folders of the part files; the first that has a file wins"
    )
    grid: Annotated[list[GridBlock], MinLen(1)] = Field(description="blocks of runs")
    overrides: list[OverrideSpec] = Field([], description="changes to some runs; later ones win")
    tables: Annotated[list[TableSpec], MinLen(1)] = Field(
        [TableSpec(name="main", title="Adapters compared")], description="result tables"
    )
    checkpoint: str | None = Field(
        None, description="folder of a trained adapter: nothing is trained, just tested with it"
    )
    features: Features = Field(
        "cached", description="from the token cache, or from a backbone in the training loop"
    )
    cache: CacheSpec = CacheSpec()
    data: DataSpec = DataSpec()
    prompt: PromptSpec = PromptSpec()
    train: TrainSpec = TrainSpec()
    tune: TuneSpec | None = Field(
        None, description="choose learning rate and steps of each method, all on the same budget"
    )
    generate: GenerateSpec = GenerateSpec()
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$")] = Field(
        "auto", description="the GPU if there is one; or cpu, cuda, cuda:1"
    )
    threads: ThreadsSpec = ThreadsSpec()
    gpus: GPUsSpec = GPUsSpec()
    seeds_per_job: Positive = Field(
        1, description="seeds of a run that one job trains, with one copy of the LLM in memory"
    )
    container: str | None = Field(
        None,
        description="image that jobs run in with --sdm apptainer: depalm.sif, or docker://...",
    )
    tracking: Literal["trackio", "wandb"] | None = Field(
        None, description="library that gets learning curves too; it must be installed"
    )

    @model_validator(mode="after")
    def _check_gpus(self) -> Self:
        if ":" in self.device and max(self.gpus.train, self.gpus.generate) > 1:
            raise fault(
                f"{self.device!r} is one GPU, and gpus asks for more; set cuda", at="device"
            )
        if self.seeds_per_job > 1 and self.gpus.train > 1:
            raise fault("a job of several processes trains one seed", at="seeds_per_job")
        # each process would find another size, and the steps of all must be the same
        if self.gpus.sharded(self.gpus.generate) and self.generate.batch_size == "auto":
            raise fault("an LLM that is sharded needs a number", at="generate.batch_size")
        return self

    @model_validator(mode="after")
    def _check_tables(self) -> Self:
        name, count = Counter(table.name for table in self.tables).most_common(1)[0]
        if count > 1:
            raise fault(f"{count} are called {name!r}, and would be one file", at="tables")
        return self
