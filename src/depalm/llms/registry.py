"""The families of LLMs, by their `model_type` in transformers."""

from typing import TYPE_CHECKING

from depalm.registry import Registry

if TYPE_CHECKING:
    from depalm.llms.base import LLM

# their modules are called as LLaMA's; whether that is true of the installed transformers is tried
# when a model is loaded
AS_LLAMA = (
    *("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "olmo", "olmo2", "phi3", "gemma"),
    *("smollm3", "stablelm", "starcoder2", "glm", "glm4", "exaone4", "ministral"),
    *("ministral3", "helium", "nemotron", "seed_oss", "arcee", "hunyuan_v1_dense", "apertus"),
    *("ernie4_5", "mixtral"),
)
FAMILIES: "Registry[type[LLM]]" = Registry(
    {
        **dict.fromkeys(AS_LLAMA, "depalm.llms.llama:LlamaLLM"),
        "granite": "depalm.llms.llama:GraniteLLM",
        "opt": "depalm.llms.opt:OptLLM",
    }
)
