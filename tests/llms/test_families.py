"""Every family on a tiny random model: the loop is the library's forward, or is refused."""

import pytest
import torch
from torch import Tensor

from depalm.llms.base import LLM, LLMError
from depalm.llms.decoder import DecoderLLM
from depalm.llms.injection import DecodingState, Injection, hidden_states
from depalm.llms.proof import prove
from tests.support.families import REGISTERED, UNLISTED, random_llm
from tests.support.tiny import WIDTH, Tokenizer, tiny_llm

LENGTH, VISUAL = 9, 5


@pytest.mark.parametrize("name", [*REGISTERED, *UNLISTED])
def test_a_family_is_proved_and_injected_tokens_are_cached(name: str) -> None:
    llm = random_llm(name)
    prove(llm)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 40, (2, LENGTH), generator=generator)
    visual = torch.randn(2, VISUAL, WIDTH, generator=generator)
    injection = Injection({0: visual, 2: visual.flip(1)}, last=2)
    with torch.no_grad():
        whole = llm.head(hidden_states(llm, ids, injection))
        state = DecodingState()
        parts = [hidden_states(llm, ids[:, :4], injection, state=state)]
        parts += [
            hidden_states(llm, ids[:, i : i + 1], injection, state=state) for i in range(4, LENGTH)
        ]
        cached = llm.head(torch.cat(parts, dim=1))
    assert float((whole - cached).norm() / whole.norm()) < 1e-4


@pytest.mark.parametrize("name", ["bloom", "xglm"])
def test_a_family_that_is_built_otherwise_is_refused(name: str) -> None:
    with pytest.raises(LLMError, match=rf"{name}'"):
        prove(random_llm(name))


class Headless(DecoderLLM):
    """Forgets the norm before the head."""

    def head(self, hidden: Tensor) -> Tensor:
        return self.model.lm_head(hidden)


class Forgetful(DecoderLLM):
    """Takes layers that remember a state for attention."""

    def recurrent(self, index: int) -> bool:  # noqa: ARG002
        return False


class Blind(DecoderLLM):
    """Forgets the sliding window."""

    def window(self, index: int) -> int | None:  # noqa: ARG002
        return None


@pytest.mark.parametrize(("wrong", "name"), [(Headless, "llama"), (Blind, "mistral")])
def test_a_model_that_is_called_wrongly_is_refused_with_the_numbers(
    wrong: type[LLM], name: str
) -> None:
    model = tiny_llm(name).model
    with pytest.raises(LLMError, match=rf"computes {name!r} otherwise .*\de[+-]\d"):
        prove(wrong(model, Tokenizer()))


def test_a_state_that_is_taken_for_attention_is_refused() -> None:
    with pytest.raises(LLMError, match="'qwen3_5_text' cannot be run one by one"):
        prove(Forgetful(tiny_llm("qwen3_5_text").model, Tokenizer()))


def test_a_slice_of_a_model_in_half_precision_is_proved_too() -> None:
    llm = tiny_llm("llama")
    llm.model.bfloat16()
    prove(llm)
    assert llm.dtype == torch.bfloat16
