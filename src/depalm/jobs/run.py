"""What the training and the generation of a run have in common."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depalm.identity import parts_of
from depalm.jobs.job import Job
from depalm.specs import BackboneSpec, LLMSpec, MethodSpec, PromptSpec
from depalm.specs.features import Features


@dataclass(frozen=True, kw_only=True)
class RunJob(Job):
    """A job on the models of a run."""

    manifest: str
    llm_directory: str
    backbone_directory: str | None = None
    features: Features
    method: MethodSpec
    backbone: BackboneSpec
    llm: LLMSpec
    prompt: PromptSpec = field(default_factory=PromptSpec)
    device: str = "auto"
    threads: int = 1
    workers: int = 1

    @property
    def parts(self) -> dict[str, dict[str, Any]]:
        """The method, backbone and LLM, and how the LLM is prompted if it is said, as JSON."""
        return parts_of(self.method, self.backbone, self.llm, self.prompt)

    @property
    def weights(self) -> Path | None:
        """The directory of the backbone's weights."""
        return None if self.backbone_directory is None else Path(self.backbone_directory)
