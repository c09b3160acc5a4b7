"""The file of an LLM, from its config.json and tokenizer."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from depalm.adding.model_source import ModelSource, opened
from depalm.adding.part import AddError, Part, part_name
from depalm.errors import DepalmError
from depalm.llms import prove_family, read_chat


def llm_part(target: str, name: str | None = None, chat: bool | None = None) -> Part:
    """The file of the LLM at `target`: hf://owner/name, or a folder in that layout.

    `chat` says whether prompts are turns of a chat; by default they are if the tokenizer has a
    template. Random weights of the model's shape are run as depalm would run it, and as the library
    does. Raises AddError if it is no LLM that can be used.
    """
    with opened(target) as source:
        try:
            return _part(target, source, name, chat)
        except (OSError, ValueError, KeyError, DepalmError) as error:
            raise AddError(f"{target}: {error}") from error


def _part(target: str, source: ModelSource, name: str | None, chat: bool | None) -> Part:
    local = {"local_files_only": True, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(source.folder, **local)
    if hasattr(config, "vision_config") or hasattr(config, "audio_config"):
        raise AddError(
            f"{target} holds a {config.model_type!r} model, which has eyes or ears of its own: add "
            "the language model that it is built on"
        )
    prove_family(config)
    tokenizer = AutoTokenizer.from_pretrained(source.folder, **local)
    chats = tokenizer.chat_template is not None if chat is None else chat
    about = [f"{target} ({source.terms})" if source.terms else target, _size(config)]
    entries: list[tuple[str, Any, str]] = [("family", config.model_type, "tried on random weights")]
    entries += source.entries
    if chats:
        read_chat(tokenizer)
        entries.append(("chat", True, "prompts and answers are turns of the tokenizer's template"))
    elif tokenizer.eos_token_id is None:
        raise AddError("its tokenizer has no eos_token_id, which ends an answer")
    elif tokenizer.bos_token_id is None:
        entries.append(("answer_prompt", "Answer:", "of captions: the tokenizer has no BOS"))
    shape = {"layers": config.num_hidden_layers, "width": config.hidden_size}
    return Part("llm", name or part_name(target), about, [*entries, ("shape", shape, "")])


def _size(config: Any) -> str:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    count = sum(parameter.numel() for parameter in model.parameters())
    return f"{count / 1e6:,.0f} million parameters, {2 * count / 1e9:.1f} GB in bfloat16"
