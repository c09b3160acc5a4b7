"""Generation by one run (rule `generate`)."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from depalm.jobs.run import RunJob
from depalm.specs.settings import GenerateSpec


@dataclass(frozen=True, kw_only=True)
class GenerateJob(RunJob):
    """Generate a text for each sample of a manifest, by a trained adapter.

    The adapter's weights are the file `adapter`, and `record` says what it was made for. Inputs are
    the samples of `manifest`, the weights of the LLM in `llm_directory`, and those of the backbone
    in `backbone_directory` (null for a method that reads no backbone). `features` says what the
    backbone's tokens are read from: kind none; kind cached, with receipts, views and store; or kind
    online, with the folder media, whose files `workers` processes decode (decode_seconds,
    max_reject_fraction). `method`, `backbone` and `llm` are the contents of the YAML files,
    `prompt` and `generate` the settings of prompts and generation. Outputs are the `texts` in the
    order of the manifest (one JSON object a line), a `summary` (seconds, counts, versions), and in
    `rejects` the samples without features. `device` and `threads` say where it runs, `expected`
    what was predicted of the job: seconds and operations. With several `processes` each has a GPU,
    or `threads` of the CPU, and a part of the samples; with `shard_llm` a part of the LLM's layers
    instead.
    """

    command: ClassVar[str] = "generate"

    adapter: str
    record: str
    generate: GenerateSpec
    texts: str
    summary: str
    rejects: str
    expected: dict[str, Any] = field(default_factory=dict)
    processes: int = 1
    shard_llm: bool = False

    @property
    def dtype(self) -> str:
        """That of the LLM."""
        return self.generate.dtype

    def run(self) -> None:
        """Raises AdapterError (an adapter of another method, backbone or LLM) and otherwise as
        `depalm.jobs.train.TrainJob.run`.
        """
        from depalm.jobs.work.generate import generate_run

        generate_run(self)
