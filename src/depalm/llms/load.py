"""Loading of a frozen LLM from a directory in Hugging Face's layout."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AddedToken, AutoModelForCausalLM, AutoTokenizer

from depalm.errors import shortened
from depalm.files import read_json
from depalm.llms.base import LLM, LLMError
from depalm.llms.chat import ChatError, read_chat
from depalm.llms.decoder import DecoderLLM
from depalm.llms.proof import prove
from depalm.llms.quantized import quantize
from depalm.llms.registry import FAMILIES
from depalm.sources.download import PICKLED_SUFFIXES
from depalm.sources.model_folder import ModelFolderError, check_model_folder
from depalm.specs import LLMSpec, PromptSpec

# buffers that older releases of transformers saved, and the output embedding where it is tied
BUFFERS = re.compile(r"rotary_emb\.inv_freq|\.masked_bias$|\.version$|^lm_head\.weight$")


def load_llm(
    spec: LLMSpec,
    directory: Path | str,
    dtype: str,
    device: torch.device | str,
    prompts: PromptSpec | None = None,
) -> LLM:
    """Load the LLM of `spec` (config/llms/*.yaml) from a Hugging Face directory, frozen, in
    `dtype`; `prompts` says how texts become its tokens.

    Only safetensors are read, and no remote code is run. Raises LLMError if the directory holds no
    usable model, asks for code of its own, or holds a model of another family or shape than `spec`
    says; and if the installed transformers computes it otherwise than we do (`depalm.llms.proof`).
    """
    directory = Path(directory)
    family = _family(spec, directory)
    model, tokenizer = _read(directory, dtype, "cpu" if spec.quantize else device)
    rows = len(model.get_input_embeddings().weight)
    try:
        chat = read_chat(tokenizer) if spec.chat else None
    except ChatError as error:
        raise LLMError(f"the chat template in {directory}: {error}") from error
    if chat is None and tokenizer.eos_token_id is None:
        raise LLMError(f"the tokenizer in {directory} has no eos_token_id")
    _check_tokens(tokenizer, rows, directory)
    prompts = prompts or PromptSpec()
    end = spec.prompt_end if prompts.end_token and spec.prompt_end else ""
    if end:
        _add_token(tokenizer, end, rows, directory)
    make = FAMILIES.get(family, DecoderLLM)
    llm = make(model, tokenizer, spec.answer_prompt, end, prompts, chat)
    shape = {"layers": len(llm.layers), "width": llm.width}
    if shape != spec.shape.given():
        stated = spec.shape.given()
        raise LLMError(f"{directory} has shape {shape}, but the LLM's YAML says {stated}")
    prove(llm)
    if spec.quantize is not None:
        quantize(llm, spec.quantize, device)
    return llm


def _family(spec: LLMSpec, directory: Path) -> str:
    """The `model_type` in `directory`. Raises LLMError unless it is that of `spec`, and a language
    model whose files need no code of their own.
    """
    if not (directory / "config.json").is_file():
        raise LLMError(f"{directory} holds no config.json: not a Hugging Face model directory")
    try:
        check_model_folder(directory)
    except ModelFolderError as error:
        raise LLMError(str(error)) from error
    _require_safetensors(directory)
    config = read_json(directory / "config.json")
    found: str | None = config.get("model_type") if isinstance(config, dict) else None
    if found is None:
        raise LLMError(f"{directory}/config.json names no model_type")
    if found != spec.family and {"vision_config", "audio_config"} & config.keys():
        raise LLMError(
            f"{directory} holds a {found!r} model, which has eyes or ears of its own: name a "
            "language model that reads text alone, such as the one that it is built on"
        )
    if spec.family not in (None, found):
        raise LLMError(
            f"{directory} holds a {found!r} model, but the LLM's YAML says family "
            f"{spec.family!r}; families: {sorted(FAMILIES)}, or leave `family` out"
        )
    return found


def _read(directory: Path, dtype: str, device: torch.device | str) -> tuple[Any, Any]:
    """The model in `directory`, with all of its weights and no others, and its tokenizer. Raises
    LLMError.
    """
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=getattr(torch, dtype),
            device_map={"": str(device)},
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
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
    _check_unused(report["unexpected_keys"], directory)
    return model, tokenizer


def _check_unused(names: Iterable[str], directory: Path) -> None:
    """Raise LLMError if the file has weights that its configuration does not ask for: the model
    would compute something else than its publisher's.
    """
    unused = sorted(name for name in names if not BUFFERS.search(name))
    if unused:
        raise LLMError(
            f"{directory} holds weights that its config.json does not use: {shortened(unused)}. "
            "Correct config.json (biases: attention_bias, mlp_bias), or fetch the model again"
        )


def _check_tokens(tokenizer: Any, rows: int, directory: Path) -> None:
    """Raise LLMError if a text may have tokens that the embedding of `rows` rows lacks."""
    padding = tokenizer.pad_token
    beyond = sorted(
        token for token, i in tokenizer.get_vocab().items() if i >= rows and token != padding
    )
    if beyond:
        raise LLMError(
            f"the tokenizer in {directory} has {len(beyond)} tokens beyond the {rows} rows of the "
            f"model's embedding: {shortened(beyond)}. It is another model's, or the weights lack "
            "the rows that were added with them: take both from one place"
        )


def _add_token(tokenizer: Any, token: str, rows: int, directory: Path) -> None:
    """Make `token` a special one, which swallows the white space around it, and if it is new has
    the first id behind the vocabulary. Raises LLMError if the embedding has no row for it.
    """
    added = AddedToken(token, lstrip=True, rstrip=True, normalized=False, special=True)
    tokenizer.add_special_tokens({"additional_special_tokens": [added]})
    found = tokenizer.convert_tokens_to_ids(token)
    if found >= rows:
        raise LLMError(
            f"prompt_end {token!r} would be token {found}, but the embedding in {directory} has "
            f"{rows} rows: set prompt.end_token to false, or prompt_end to a token that is there"
        )


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
