"""What a tokenizer's chat template puts around a prompt and its answer."""

from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from depalm.errors import DepalmError

PROMPT, ANSWER = "depalmprompt", "depalmanswer"  # stand where they are, while a template is read
# in front of a template: a day that stays, for what is learned today is asked tomorrow
SAME_DAY = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}"


class ChatError(DepalmError):
    """A chat template that is not there, or of which it cannot be said what stands where."""


@dataclass(frozen=True)
class Chat:
    """A turn of the user and one of the model: ``front PROMPT behind ANSWER end``.

    front: token ids of what stands before the prompt, BOS and a system's message among it; visual
        tokens stand behind them.
    behind: the text between prompt and answer.
    end: the id of the special token that ends the answer.
    """

    front: list[int]
    behind: str
    end: int


def read_chat(tokenizer: PreTrainedTokenizerBase) -> Chat:
    """The chat template of a tokenizer. Raises ChatError."""
    user = {"role": "user", "content": PROMPT}
    asked = _rendered(tokenizer, [user], add_generation_prompt=True)
    answered = _rendered(tokenizer, [user, {"role": "assistant", "content": ANSWER}])
    for text, part in ((asked, PROMPT), (answered, ANSWER)):
        if text.count(part) != 1:
            raise ChatError(f"it has the text of a turn {text.count(part)} times: {text!r}")
    front, _, behind = asked.partition(PROMPT)
    end = tokenizer.encode(answered.partition(ANSWER)[2].lstrip(), add_special_tokens=False)
    if not end or end[0] not in {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}:
        raise ChatError(f"no special token ends an answer: {answered!r}")
    return Chat(_front_ids(tokenizer, front), behind, end[0])


def _front_ids(tokenizer: PreTrainedTokenizerBase, front: str) -> list[int]:
    """Ids of what stands before a prompt: with the prompt's own those of the whole, if that can be.

    A space at its end belongs to the prompt for SentencePiece, which puts one in front of any text.
    """
    whole, prompt = (
        tokenizer.encode(t, add_special_tokens=False) for t in (front + PROMPT, PROMPT)
    )
    parts = [tokenizer.encode(t, add_special_tokens=False) for t in (front, front.rstrip(" "))]
    return next((ids for ids in parts if [*ids, *prompt] == whole), parts[0])


def _rendered(tokenizer: Any, messages: list[dict[str, str]], **settings: bool) -> str:
    if tokenizer.chat_template is None:
        raise ChatError("there is none: name a model that was made for chats, or leave `chat` out")
    try:
        text: str = tokenizer.apply_chat_template(
            messages,
            chat_template=SAME_DAY + tokenizer.get_chat_template(),
            tokenize=False,
            enable_thinking=False,  # no thoughts in front of the answer
            **settings,
        )
    except (TemplateError, ValueError, TypeError) as error:
        raise ChatError(f"it cannot be read: {error}") from error
    return text
