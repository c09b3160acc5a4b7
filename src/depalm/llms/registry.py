"""The families of LLMs, by their `model_type` in transformers."""

from typing import TYPE_CHECKING

from depalm.registry import Registry

if TYPE_CHECKING:
    from depalm.llms.base import LLM

FAMILIES: "Registry[type[LLM]]" = Registry(
    {"llama": "depalm.llms.llama:LlamaLLM", "opt": "depalm.llms.opt:OptLLM"}
)
