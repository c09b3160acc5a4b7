"""What an LLM reads in front of an answer."""

from collections.abc import Sequence
from dataclasses import replace

from depalm.datasets.manifest import Sample


def with_prompt(samples: Sequence[Sample], answer_prompt: str) -> list[Sample]:
    """The samples, with the LLM's `answer_prompt` (config/llms/*.yaml) where a prompt is empty."""
    return [s if s.prompt else replace(s, prompt=answer_prompt) for s in samples]
