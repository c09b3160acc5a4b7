"""Frozen causal LLMs from Hugging Face, seen as the steps that an injection stands between.

The layer loop itself is in `depalm.llms.injection`. Here a family says how its public modules
are called: token ids -> hidden states, one decoder layer, hidden states -> logits. No library code
is copied or patched.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedTokenizerBase

from depalm.errors import DepalmError, shortened
from depalm.llms.chat import Chat
from depalm.specs.llm import PromptSpec

Rotary = Mapping[str | None, tuple[Tensor, Tensor]]  # by the kind of layers; empty without any


class LLMError(DepalmError):
    """A language model that cannot be used: another family, another shape, missing files."""


def require_positions(llm: "LLM", samples: Sequence[Any], lengths: Sequence[int]) -> None:
    """Raise LLMError naming the `samples`, each of an `id`, whose texts are of more tokens than the
    LLM has positions for.
    """
    room = llm.positions - len(llm.front)
    longer = [(s.id, n) for s, n in zip(samples, lengths, strict=True) if n > room]
    if longer:
        raise LLMError(
            f"{len(longer)} samples are longer than the {room} positions of the LLM: "
            f"{shortened([name for name, _ in longer])}; the first has {longer[0][1]} tokens. "
            "Shorten their prompts, or leave them out"
        )


class LLM(nn.Module, ABC):
    """A frozen causal language model of `layers` decoder layers and width `width`, with its
    tokenizer.

    answer_prompt: the prompt of a sample that has none.
    prompt_end: a special token that stands behind each prompt, or nothing. White space around it is
        lost.
    prompts: how prompts and answers become tokens.
    chat: what stands around them, if they are turns of a chat.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        answer_prompt: str = "",
        prompt_end: str = "",
        prompts: PromptSpec | None = None,
        chat: Chat | None = None,
    ):
        super().__init__()
        self.answer_prompt, self.prompt_end = answer_prompt, prompt_end
        self.prompts, self.chat = prompts or PromptSpec(), chat
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.width: int = model.config.hidden_size

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def front(self) -> list[int]:
        """Token ids that stand in front of visual tokens and text: the start of a chat."""
        return [] if self.chat is None else self.chat.front

    @property
    def start(self) -> list[int]:
        """Token ids that every prompt starts with: BOS, where the tokenizer has one and no chat has
        put it in front.
        """
        bos = self.tokenizer.bos_token_id
        return [] if self.chat is not None or bos is None else [int(bos)]

    @property
    def eos(self) -> int:
        """The token that ends an answer."""
        return int(self.tokenizer.eos_token_id) if self.chat is None else self.chat.end

    @property
    def needs_mask(self) -> bool:
        """Whether the layers' attention takes no mask for nothing being masked."""
        return bool(self.model.config._attn_implementation == "eager")

    @property
    def positions(self) -> int:
        """The tokens of a text that the model can tell apart: its longest sequence."""
        return int(self.model.config.max_position_embeddings)

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
    def rotary(self, hidden: Tensor, positions: Tensor) -> Rotary:
        """The (cos, sin) [B, S, head width] that each kind of layers takes, where the family has
        rotary positions.
        """

    @abstractmethod
    def layer(
        self,
        index: int,
        hidden: Tensor,
        mask: Tensor | None,
        positions: Tensor,
        rotary: Rotary,
        cache: Cache | None,
    ) -> Tensor:
        """Run decoder layer `index` on hidden [B, S, D]; `mask` [B, 1, S, keys] is additive, None
        is causal, if `needs_mask` is not set.
        """

    def window(self, index: int) -> int | None:  # noqa: ARG002
        """How many positions back layer `index` attends, its own among them; None is all."""
        return None

    def recurrent(self, index: int) -> bool:  # noqa: ARG002
        """Whether layer `index` remembers what stood before as one state, in place of keys and
        values. Its mask is [B, S], False at padding, or None.
        """
        return False

    @property
    def recurs(self) -> bool:
        """Whether any layer is recurrent."""
        return any(self.recurrent(index) for index in range(len(self.layers)))

    @abstractmethod
    def head(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]: final norm and output embedding."""

    def prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of what stands in front of each answer, behind `front`: BOS, the prompt, and
        `prompt_end` or what the chat puts there.

        Raises LLMError for a prompt of no token, behind which nothing can be predicted.
        """
        found = [[*self.start, *ids] for ids in self.tokenize([*map(self._prompt, prompts)])]
        if not all(found):
            raise LLMError(
                "this LLM's tokenizer has no BOS, so an empty prompt gives it nothing to begin "
                "with: say `answer_prompt` in the LLM's YAML"
            )
        return found

    def answer_ids(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """Token ids of prompts and answers as training reads them, without EOS: for each pair those
        in front of the first position that is learned, and those that are learned.

        Tokenized together, the prompt is as many ids as it is alone: if a token spans the boundary,
        a part of the answer is not learned.
        """
        prompts = sorted({prompt for prompt, _ in pairs})
        before = dict(zip(prompts, self.prompt_ids(prompts), strict=True))
        if self.prompts.tokenize == "apart":
            answers = sorted({answer for _, answer in pairs})
            read = [answer.lstrip() if self.prompt_end else answer for answer in answers]
            ids = dict(zip(answers, self.tokenize(read), strict=True))
            return [(before[prompt], ids[answer]) for prompt, answer in pairs]
        texts = [self._prompt(prompt) + answer for prompt, answer in pairs]
        whole = [[*self.start, *ids] for ids in self.tokenize(texts)]
        counts = [len(before[prompt]) for prompt, _ in pairs]
        return [(ids[:count], ids[count:]) for ids, count in zip(whole, counts, strict=True)]

    def _prompt(self, prompt: str) -> str:
        """The text in front of an answer."""
        text = prompt or self.answer_prompt
        if self.chat is not None:
            return text.strip() + self.chat.behind
        if self.prompts.space and text and text[-1] not in " \n":
            text += " "
        return text + self.prompt_end

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, without BOS, EOS or padding."""
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids
