"""The families of LLMs, by their `model_type` in transformers."""

from typing import TYPE_CHECKING

from depalm.registry import Registry

if TYPE_CHECKING:
    from depalm.llms.base import LLM

# those that the tests try on tiny random models; whether they are computed as the installed
# transformers does is tried when a model is loaded, of these families and of any other
DECODERS = (
    *("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "olmo", "olmo2", "olmo3", "phi", "phi3"),
    *("gemma", "gemma2", "gemma3_text", "smollm3", "granite", "stablelm", "starcoder2", "glm"),
    *("glm4", "exaone4", "ministral", "ministral3", "helium", "nemotron", "seed_oss", "arcee"),
    *("hunyuan_v1_dense", "apertus", "ernie4_5", "mixtral", "cohere", "cohere2", "gpt2"),
    *("gpt_neox", "qwen3_5_text"),
)
FAMILIES: "Registry[type[LLM]]" = Registry(
    {
        **dict.fromkeys(DECODERS, "depalm.llms.decoder:DecoderLLM"),
        "opt": "depalm.llms.opt:OptLLM",
    }
)
