from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from depalm.adapters.connector import CrossAttention
from depalm.llms.base import LLM
from depalm.llms.injection import DecodingState, Injection, InjectionError, hidden_states
from tests.support.generation import behind_front
from tests.support.tiny import FAMILIES, LAYERS, SEVERAL, VOCABULARY, WIDTH, tiny_llm

BATCH, LENGTH, VISUAL, PROMPT = 3, 7, 5, 2
close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)  # hidden states are of order 10


@pytest.fixture(params=FAMILIES)
def llm(request: pytest.FixtureRequest) -> LLM:
    return tiny_llm(request.param)


@pytest.fixture(params=SEVERAL)
def several(request: pytest.FixtureRequest) -> LLM:
    return tiny_llm(request.param)


@pytest.fixture
def token_ids() -> Tensor:
    return torch.randint(3, VOCABULARY, (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def left_padded() -> Tensor:
    return torch.arange(LENGTH) >= torch.tensor([[3], [0], [1]])


def injections() -> dict[str, Injection]:
    torch.manual_seed(2)

    def tokens(*layers: int) -> dict[int, Tensor]:
        return {layer: torch.randn(BATCH, VISUAL, WIDTH) for layer in layers}

    prompt = torch.randn(PROMPT, WIDTH)
    prompts = {layer: torch.randn(PROMPT, WIDTH) for layer in range(1, LAYERS)}
    cross = CrossAttention(16, WIDTH, heads=2).requires_grad_(False)
    assert cross.gate is not None
    cross.gate.fill_(2.0)
    first, second = (cross.keys_values(torch.randn(BATCH, VISUAL, 16)) for _ in range(2))
    pairs = {1: first, 2: first, 3: second}
    return {
        "none": Injection(),
        "prompt": Injection(prompt=prompt),
        "l0": Injection(tokens(0)),
        "l0 with prompt": Injection(tokens(0), prompt=prompt),
        "inner, removed": Injection(tokens(1, 2), last=2, prompt=prompt),
        "inner, with a gap": Injection(tokens(0, 2), last=2),
        "inner, kept": Injection(tokens(1, 3), prompt=prompt),
        "prompt in every layer": Injection(prompt=prompt, layer_prompts=prompts),
        "inner, prompt in every layer": Injection(tokens(1, 2), 2, prompt, prompts),
        "cross-attention": Injection(prompt=prompt, cross=pairs, reader=cross),
    }


every_injection = pytest.mark.parametrize("injection", injections().values(), ids=injections())


def test_nothing_injected_is_the_plain_llm(
    llm: LLM, token_ids: Tensor, left_padded: Tensor
) -> None:
    ours = llm.head(hidden_states(llm, token_ids, Injection()))
    whole, seen = behind_front(llm, token_ids, left_padded)
    close(ours, llm.model(whole).logits[:, -LENGTH:])

    positions = (seen.long().cumsum(1) - 1).clamp(min=0)
    theirs = llm.model(whole, attention_mask=seen.long(), position_ids=positions).logits
    theirs = theirs[:, -LENGTH:]
    ours = llm.head(hidden_states(llm, token_ids, Injection(), left_padded))
    close(ours[left_padded], theirs[left_padded])


@pytest.mark.parametrize("family", ["llama", "llama-chat"])
def test_l0_tokens_are_input_embeddings(token_ids: Tensor, family: str) -> None:
    """In a chat they stand behind its start. Where positions are rotary, visual tokens are
    embeddings like any other.
    """
    llm = tiny_llm(family)
    injection = injections()["l0 with prompt"]
    assert injection.prompt is not None
    prompt = injection.prompt.expand(BATCH, -1, -1)
    front = llm.embed(torch.tensor(llm.front, dtype=torch.long).expand(BATCH, -1))
    embeddings = torch.cat((front, injection.tokens[0], prompt, llm.embed(token_ids)), dim=1)
    theirs = llm.model(inputs_embeds=embeddings).logits[:, -LENGTH:]
    close(llm.head(hidden_states(llm, token_ids, injection)), theirs)


def test_a_gate_at_zero_is_the_plain_llm(llm: LLM, token_ids: Tensor) -> None:
    cross = CrossAttention(16, WIDTH, heads=2)  # whose gate starts at 0
    pair = cross.keys_values(torch.randn(BATCH, VISUAL, 16))
    ours = llm.head(hidden_states(llm, token_ids, Injection(cross={1: pair}, reader=cross)))
    whole, _ = behind_front(llm, token_ids, token_ids > 0)
    close(ours, llm.model(whole).logits[:, -LENGTH:])


@every_injection
def test_a_cached_step_equals_a_full_pass(
    llm: LLM, token_ids: Tensor, left_padded: Tensor, injection: Injection
) -> None:
    full = hidden_states(llm, token_ids, injection, left_padded)
    state = DecodingState()
    steps = [hidden_states(llm, token_ids[:, :4], injection, left_padded[:, :4], state)]
    steps += [hidden_states(llm, token_ids[:, [i]], injection, None, state) for i in (4, 5)]
    steps += [hidden_states(llm, token_ids[:, 6:], injection, left_padded[:, 6:], state)]
    close(torch.cat(steps, 1)[left_padded], full[left_padded])


@every_injection
def test_a_padded_batch_equals_one_by_one(
    llm: LLM, token_ids: Tensor, left_padded: Tensor, injection: Injection
) -> None:
    batch = hidden_states(llm, token_ids, injection, left_padded)
    for i in range(BATCH):
        text = token_ids[i, left_padded[i]][None]
        alone = hidden_states(llm, text, injection.select(torch.tensor([i])))
        close(batch[i, left_padded[i]], alone[0])


@every_injection
def test_right_padding_needs_no_mask(llm: LLM, token_ids: Tensor, injection: Injection) -> None:
    valid = torch.arange(LENGTH) < torch.tensor([[4], [7], [6]])
    masked = hidden_states(llm, token_ids, injection, valid)
    plain = hidden_states(llm, token_ids, injection)
    close(masked[valid], plain[valid])


@every_injection
def test_a_future_token_changes_nothing_before_it(
    llm: LLM, token_ids: Tensor, injection: Injection
) -> None:
    changed = token_ids.clone()
    changed[:, 4] = (changed[:, 4] - 2) % (VOCABULARY - 3) + 3
    before = hidden_states(llm, token_ids, injection)
    after = hidden_states(llm, changed, injection)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


@pytest.mark.parametrize("name", ["l0", "inner, removed", "inner, with a gap", "inner, kept"])
def test_every_target_layer_reads_its_own_tokens(llm: LLM, token_ids: Tensor, name: str) -> None:
    injection = injections()[name]
    before = hidden_states(llm, token_ids, injection)
    for layer in injection.tokens:
        tokens = {**injection.tokens, layer: injection.tokens[layer].flip(0)}
        after = hidden_states(llm, token_ids, Injection(tokens, injection.last, injection.prompt))
        assert not torch.allclose(before[0], after[0])
        close(before[1], after[1])  # the middle sample kept its tokens


@every_injection
def test_beams_in_one_row_keep_their_sample_and_their_text(
    several: LLM, token_ids: Tensor, left_padded: Tensor, injection: Injection
) -> None:
    state, beams = DecodingState(), 2
    hidden_states(several, token_ids, injection, left_padded, state)
    repeated = injection.select(torch.arange(BATCH).repeat_interleave(beams))
    generator = torch.Generator().manual_seed(4)
    steps = torch.randint(3, VOCABULARY, (4, BATCH, beams), generator=generator)
    texts = token_ids.repeat_interleave(beams, dim=0)
    valid = left_padded.repeat_interleave(beams, dim=0)
    parents = torch.tensor([[[0, 0]] * 3, [[1, 0], [0, 0], [0, 1]], [[0, 0], [1, 1], [1, 0]]])
    for step, parent in zip(steps, [*parents, parents[1]], strict=True):
        rows = (torch.arange(BATCH)[:, None] * beams + parent).flatten()
        texts = torch.cat((texts[rows], step.view(-1, 1)), dim=1)
        valid = torch.nn.functional.pad(valid, (0, 1), value=True)
        state.branch(parent)
        cached = hidden_states(several, step, injection, None, state)
        expected = hidden_states(several, texts, repeated, valid)[:, -1]
        close(cached.flatten(0, 1), expected)


@every_injection
def test_texts_behind_one_image_are_as_if_each_stood_alone(
    several: LLM, token_ids: Tensor, injection: Injection
) -> None:
    lengths = ([2, 3, 1], [4, 2], [5])
    numbers = torch.full((BATCH, 6), -1)
    for row, of_row in enumerate(lengths):
        numbers[row, : sum(of_row)] = torch.arange(len(of_row)).repeat_interleave(
            torch.tensor(of_row)
        )
    token_ids = token_ids[:, :6]
    packed = hidden_states(several, token_ids, injection, texts=numbers)
    for row in range(BATCH):
        start = 0
        for length in lengths[row]:
            text, own = token_ids[[row], start : start + length], torch.tensor([row])
            alone = hidden_states(several, text, injection.select(own))
            close(packed[row, start : start + length], alone[0])
            start += length


@every_injection
def test_what_is_injected_goes_through_once_for_all_texts_of_an_image(
    several: LLM, token_ids: Tensor, left_padded: Tensor, injection: Injection
) -> None:
    rows = torch.tensor([1, 0, 1, 2])
    state = DecodingState()
    hidden_states(several, token_ids[:, :0], injection, None, state)
    state.select(rows)
    texts, valid, own = token_ids[[0, 1, 2, 0]], left_padded[[0, 1, 2, 0]], injection.select(rows)
    shared = hidden_states(several, texts, own, valid, state)
    expected = hidden_states(several, texts, own, valid)
    close(shared[valid], expected[valid])


def test_recurrent_layers_refuse_what_they_would_mix_up(
    token_ids: Tensor, left_padded: Tensor
) -> None:
    llm, injection = tiny_llm("qwen3_5_text"), injections()["l0"]
    with pytest.raises(InjectionError, match="one text in a row"):
        hidden_states(llm, token_ids, injection, texts=torch.zeros_like(token_ids))
    state = DecodingState()
    hidden_states(llm, token_ids, injection, left_padded, state)
    with pytest.raises(InjectionError, match="in front of padding"):
        hidden_states(llm, token_ids, injection, left_padded, state)
    state.branch(torch.zeros(BATCH, 2, dtype=torch.long))
    with pytest.raises(InjectionError, match="one text in a row"):
        hidden_states(llm, token_ids[:, :2], injection, None, state)


def test_a_kept_token_goes_on_and_a_removed_one_does_not(llm: LLM, token_ids: Tensor) -> None:
    injection = injections()["inner, removed"]
    removed = hidden_states(llm, token_ids, injection)
    kept = hidden_states(llm, token_ids, replace(injection, last=None))
    to_the_end = hidden_states(llm, token_ids, replace(injection, last=LAYERS - 1))
    assert not torch.allclose(removed, kept)
    assert torch.equal(kept, to_the_end)


@pytest.mark.parametrize(
    "injection",
    [
        Injection(layer_prompts={LAYERS: torch.zeros(PROMPT, WIDTH)}),
        Injection({LAYERS: torch.zeros(BATCH, 1, WIDTH)}),
        Injection({-1: torch.zeros(BATCH, 1, WIDTH)}),
        Injection({2: torch.zeros(BATCH, 1, WIDTH)}, last=1),
    ],
)
def test_a_layer_out_of_range_is_an_error(token_ids: Tensor, injection: Injection) -> None:
    with pytest.raises(InjectionError, match=f"LLM of {LAYERS} layers"):
        hidden_states(tiny_llm("llama"), token_ids, injection)


def test_targets_with_different_counts_are_an_error(token_ids: Tensor) -> None:
    tokens = {0: torch.zeros(BATCH, 1, WIDTH), 1: torch.zeros(BATCH, 2, WIDTH)}
    with pytest.raises(InjectionError, match="same number of tokens"):
        hidden_states(tiny_llm("llama"), token_ids, Injection(tokens))
