"""What the training and the generation of a run have in common."""

from dataclasses import dataclass, field
from typing import Any

from depalm.jobs.job import Job


@dataclass(frozen=True, kw_only=True)
class RunJob(Job):
    """A job on the models of a run."""

    manifest: str
    llm_directory: str
    backbone_directory: str | None = None
    shards: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    media: str | None = None
    method: dict[str, Any]
    backbone: dict[str, Any]
    llm: dict[str, Any]
    decoding: dict[str, Any] = field(default_factory=dict)
    device: str = "auto"
    threads: int = 1
    workers: int = 1

    @property
    def parts(self) -> dict[str, dict[str, Any]]:
        """The contents of the method's, backbone's and LLM's YAML."""
        return {"method": self.method, "backbone": self.backbone, "llm": self.llm}
