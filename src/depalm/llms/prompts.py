"""What an LLM reads in front of an answer."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from depalm.datasets.manifest import Sample


def with_prompt(samples: Sequence[Sample], llm: Mapping[str, Any]) -> list[Sample]:
    """The samples, with the LLM's `answer_prompt` (config/llms/*.yaml) where a prompt is empty."""
    prompt = llm.get("answer_prompt", "")
    return [sample if sample.prompt else replace(sample, prompt=prompt) for sample in samples]
