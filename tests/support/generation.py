"""What the library generates, and what the plainest search does."""

import torch
from torch import Tensor

from depalm.generation.generate import beam_search, pad_left
from depalm.llms.base import LLM
from depalm.llms.injection import Injection, hidden_states
from depalm.specs.settings import GenerateSpec
from tests.support.features import RandomFeatures
from tests.support.tiny import METHODS, VOCABULARY, random_adapter


def library_beam_search(
    llm: LLM, token_ids: Tensor, valid: Tensor, beams: int, max_new_tokens: int
) -> list[list[int]]:
    """New tokens of each row by the library's own beam search, up to EOS."""
    token_ids, valid = behind_front(llm, token_ids, valid)
    found = llm.model.generate(
        input_ids=token_ids,
        attention_mask=valid.long(),
        num_beams=beams,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        early_stopping=False,
        length_penalty=1.0,
        eos_token_id=llm.eos,
        pad_token_id=llm.eos,
    )[:, token_ids.shape[1] :].tolist()
    return [row[: row.index(llm.eos)] if llm.eos in row else row for row in found]


def behind_front(llm: LLM, token_ids: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """A batch with the start of the chat in front, which the library knows nothing of."""
    front = torch.tensor(llm.front, dtype=torch.long).expand(len(token_ids), -1)
    there = torch.ones_like(front, dtype=torch.bool)
    return torch.cat((front, token_ids), dim=1), torch.cat((there, valid), dim=1)


def prompts(count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(2, 9, (count,), generator=generator).tolist()
    return [torch.randint(3, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


def uncached(
    llm: LLM, prompt: list[int], injection: Injection, beams: int, steps: int
) -> list[int]:
    """The plainest beam search of one sample: each beam's whole text again for every token."""
    running: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[tuple[float, list[int]]] = []
    for length in range(1, steps + 1):
        texts = torch.tensor([prompt + text for _, text in running])
        repeated = injection.select(torch.zeros(len(running), dtype=torch.long))
        hidden = hidden_states(llm, texts, repeated)
        log_probs = llm.head(hidden[:, -1]).log_softmax(-1).tolist()
        candidates = [
            (score + log_prob, [*text, token])
            for (score, text), row in zip(running, log_probs, strict=True)
            for token, log_prob in enumerate(row)
        ]
        best = sorted(candidates, reverse=True)[: 2 * beams]
        ended = [length == steps or text[-1] == llm.eos for _, text in best]
        finished += [
            (score / length, text)
            for (score, text), end in zip(best[:beams], ended, strict=False)
            if end
        ]
        finished = sorted(finished, reverse=True)[:beams]
        running = [beam for beam, end in zip(best, ended, strict=True) if not end][:beams]
        if len(finished) == beams and running and running[0][0] / length <= finished[-1][0]:
            break
    return [token for token in finished[0][1] if token != llm.eos]


def cache_changes_nothing(llm: LLM, method: str) -> None:
    """With an adapter of `method`: greedily and with beams, a batch gets what each gets alone and
    without a cache.
    """
    adapter = random_adapter(METHODS[method])
    features = RandomFeatures(adapter).read(["a", "b", "c"])
    texts = prompts(3)
    with torch.inference_mode():
        token_ids, valid = pad_left(texts, llm.eos)
        for beams in (1, 3):
            cached = beam_search(
                llm,
                token_ids,
                valid,
                adapter(features),
                GenerateSpec(beams=beams, max_new_tokens=6),
            )
            for i, text in enumerate(texts):
                assert cached[i] == uncached(llm, text, adapter(features[[i]]), beams, 6)
