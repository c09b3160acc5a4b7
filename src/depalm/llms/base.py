"""Frozen causal LLMs from Hugging Face, seen as the steps that an injection stands between.

The layer loop itself is in :mod:`depalm.llms.injection`. Here a family says how its public modules
are called: token ids -> hidden states, one decoder layer, hidden states -> logits. No library code
is copied or patched.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, Cache, PreTrainedTokenizerBase

from depalm.errors import DepalmError
from depalm.files import read_json
from depalm.sources.download import PICKLED_SUFFIXES
from depalm.sources.model_folder import ModelFolderError, check_model_folder


class LLMError(DepalmError):
    """A language model that cannot be used: another family, another shape, missing files."""


class LLM(nn.Module, ABC):
    """A frozen causal language model of `layers` decoder layers and width `width`, with its
    tokenizer.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.width: int = model.config.hidden_size

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def bos(self) -> int:
        return int(self.tokenizer.bos_token_id)

    @property
    def eos(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def body(self) -> nn.Module:
        """The model without its output embedding: what a method may tune."""
        return self.model.base_model

    @property
    @abstractmethod
    def layers(self) -> nn.ModuleList:
        """The decoder layers, in order."""

    @abstractmethod
    def embed(self, token_ids: Tensor) -> Tensor:
        """[B, S] -> [B, S, D]: token embeddings, without any position."""

    @abstractmethod
    def add_positions(self, hidden: Tensor, positions: Tensor) -> Tensor:
        """[B, S, D], [B, S] -> [B, S, D]: add positions learned at the embedding, where the family
        has them.
        """

    @abstractmethod
    def rotary(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor] | None:
        """The (cos, sin) [B, S, head width] that every layer takes, where the family has rotary
        positions.
        """

    @abstractmethod
    def layer(
        self,
        index: int,
        hidden: Tensor,
        mask: Tensor | None,
        positions: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        cache: Cache | None,
    ) -> Tensor:
        """Run decoder layer `index` on hidden [B, S, D]; `mask` [B, 1, S, keys] is additive, None
        is causal.
        """

    @abstractmethod
    def head(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]: final norm and output embedding."""

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, without BOS, EOS or padding."""
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids


class LlamaLLM(LLM):
    """LLaMA, Llama 2, Vicuna, Alpaca, SmolLM2 (grouped-query attention too): rotary positions."""

    @property
    def layers(self) -> nn.ModuleList:
        return self.model.model.layers

    def embed(self, token_ids: Tensor) -> Tensor:
        return self.model.model.embed_tokens(token_ids)

    def add_positions(self, hidden: Tensor, positions: Tensor) -> Tensor:  # noqa: ARG002
        return hidden

    def rotary(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor] | None:
        cosine, sine = self.model.model.rotary_emb(hidden, position_ids=positions)
        return cosine, sine

    def layer(
        self,
        index: int,
        hidden: Tensor,
        mask: Tensor | None,
        positions: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        cache: Cache | None,
    ) -> Tensor:
        # by position, for the cache's keyword differs between releases of transformers
        return self.layers[index](
            hidden, mask, positions, cache, use_cache=cache is not None, position_embeddings=rotary
        )

    def head(self, hidden: Tensor) -> Tensor:
        return self.model.lm_head(self.model.model.norm(hidden))


class OptLLM(LLM):
    """OPT of any size: learned positions, added at the embedding (inserted tokens have none)."""

    @property
    def layers(self) -> nn.ModuleList:
        return self.model.model.decoder.layers

    def embed(self, token_ids: Tensor) -> Tensor:
        decoder = self.model.model.decoder
        hidden: Tensor = decoder.embed_tokens(token_ids)
        return hidden if decoder.project_in is None else decoder.project_in(hidden)

    def add_positions(self, hidden: Tensor, positions: Tensor) -> Tensor:
        # the learned positions take either a mask to count, or, as here, the positions themselves
        learned: Tensor = self.model.model.decoder.embed_positions(None, position_ids=positions)
        return hidden + learned

    def rotary(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor] | None:  # noqa: ARG002
        return None

    def layer(
        self,
        index: int,
        hidden: Tensor,
        mask: Tensor | None,
        positions: Tensor,
        rotary: tuple[Tensor, Tensor] | None,  # noqa: ARG002
        cache: Cache | None,
    ) -> Tensor:
        return self.layers[index](
            hidden, mask, cache, position_ids=positions, use_cache=cache is not None
        )

    def head(self, hidden: Tensor) -> Tensor:
        decoder = self.model.model.decoder
        if decoder.final_layer_norm is not None:
            hidden = decoder.final_layer_norm(hidden)
        if decoder.project_out is not None:
            hidden = decoder.project_out(hidden)
        return self.model.lm_head(hidden)


def load_llm(
    spec: Mapping[str, Any], directory: Path | str, dtype: str, device: torch.device | str
) -> LLM:
    """Load the LLM of `spec` (config/llms/*.yaml) from a Hugging Face directory, frozen, in
    `dtype`.

    Only safetensors are read, and no remote code is run. Raises LLMError if the directory holds no
    usable model, asks for code of its own, or holds a model of another family or shape than `spec`
    says.
    """
    directory = Path(directory)
    if not (directory / "config.json").is_file():
        raise LLMError(f"{directory} holds no config.json: not a Hugging Face model directory")
    try:
        check_model_folder(directory)
    except ModelFolderError as error:
        raise LLMError(str(error)) from error
    _require_safetensors(directory)
    found = read_json(directory / "config.json").get("model_type")
    if found != spec["family"]:
        raise LLMError(
            f"{directory} holds a {found!r} model, but the LLM's YAML says family "
            f"{spec['family']!r}; families: {sorted(FAMILIES)}"
        )
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=getattr(torch, dtype),
            device_map={"": str(device)},
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise LLMError(f"the model in {directory} cannot be loaded: {error}") from error
    if report["missing_keys"]:
        raise LLMError(
            f"{directory} lacks weights of its model: {sorted(report['missing_keys'])}; fetch or "
            "convert it again"
        )
    for token in ("bos_token_id", "eos_token_id"):
        if getattr(tokenizer, token) is None:
            raise LLMError(f"the tokenizer in {directory} has no {token}")
    llm = FAMILIES[spec["family"]](model, tokenizer)
    shape = {"layers": len(llm.layers), "width": llm.width}
    if shape != dict(spec["shape"]):
        raise LLMError(f"{directory} has shape {shape}, but the LLM's YAML says {spec['shape']}")
    return llm


def _require_safetensors(directory: Path) -> None:
    """Raise LLMError unless there are safetensors, and all that an index names."""
    there = {path.name for path in directory.iterdir()}
    index = directory / "model.safetensors.index.json"
    named = set(read_json(index)["weight_map"].values()) if index.is_file() else set()
    if named - there:
        raise LLMError(f"{directory} lacks {sorted(named - there)}, which {index.name} names")
    if any(name.endswith(".safetensors") for name in there):
        return
    pickled = sorted(name for name in there if name.endswith(PICKLED_SUFFIXES))
    advice = "; give them in the LLM's YAML as source, with `convert: pytorch`" if pickled else ""
    raise LLMError(
        f"{directory} holds no .safetensors{f', only {pickled}' if pickled else ''}: pickled "
        f"weights can run code and are not read as they are{advice}"
    )


FAMILIES: dict[str, type[LLM]] = {"llama": LlamaLLM, "opt": OptLLM}
