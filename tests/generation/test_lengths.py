"""Beam search whose lengths count the prompt: the rule of transformers before 4.36, by hand."""

import pytest
import torch

from depalm.generation.generate import beam_search, pad_left
from depalm.llms.base import LLM
from depalm.llms.injection import Injection
from depalm.specs.settings import GenerateSpec
from tests.support.tiny import VOCABULARY, tiny_llm

Beam = tuple[float, list[int]]


def log_probabilities(llm: LLM, text: list[int]) -> list[float]:
    with torch.inference_mode():
        logits = llm.model(torch.tensor([text])).logits[0, -1]
        return logits.float().log_softmax(-1).tolist()


def by_hand(llm: LLM, prompt: list[int], beams: int, steps: int, penalty: float) -> list[int]:
    """As BeamSearchScorer and BeamHypotheses had it, for one sample: an ended beam is divided by
    its whole length without EOS; the sample is done when the best score of a step, divided by the
    length that is then reached, is no better than the worst of as many ended beams; what still
    runs at the end counts as ended there.
    """
    running: list[Beam] = [(0.0, prompt)]
    ended: list[Beam] = []

    def end(score: float, text: list[int]) -> None:
        ended.append((score / len(text) ** penalty, text))
        ended.sort(key=lambda beam: beam[0], reverse=True)
        del ended[beams:]

    for _ in range(steps):
        candidates = sorted(
            (
                (score + more, [*text, token])
                for score, text in running
                for token, more in enumerate(log_probabilities(llm, text))
            ),
            key=lambda beam: beam[0],
            reverse=True,
        )[: 2 * beams]
        following: list[Beam] = []
        for rank, (score, text) in enumerate(candidates):
            if text[-1] == llm.eos:
                if rank < beams:
                    end(score, text[:-1])
            elif len(following) < beams:
                following.append((score, text))
        running = following
        length = len(running[0][1])
        best = running[0][0]
        if len(ended) == beams and ended[-1][0] >= best / length**penalty:
            break
    else:
        for score, text in running:
            end(score, text)
    return ended[0][1][len(prompt) :]


@pytest.mark.parametrize("family", ["llama", "opt"])
@pytest.mark.parametrize(("beams", "penalty"), [(1, 1.0), (3, 1.0), (3, 0.5), (2, 2.0)])
def test_lengths_of_the_whole_text_are_those_of_older_releases(
    family: str, beams: int, penalty: float
) -> None:
    """In batches of prompts of other lengths, whose padding does not count."""
    other = ended = 0
    for seed in range(6):
        llm = tiny_llm(family, seed)
        random = torch.Generator().manual_seed(seed)
        lengths = [3, 17, 9, 1]
        prompts = [torch.randint(3, VOCABULARY, (n,), generator=random).tolist() for n in lengths]
        token_ids, valid = pad_left(prompts, llm.eos)
        settings = {"beams": beams, "max_new_tokens": 9, "length_penalty": penalty}
        found, of_answers = (
            beam_search(
                llm, token_ids, valid, Injection(), GenerateSpec(**settings, length_of=length_of)
            )
            for length_of in ("text", "answer")
        )
        assert found == [by_hand(llm, prompt, beams, 9, penalty) for prompt in prompts]
        other += found != of_answers
        ended += sum(len(text) < 9 for text in found)
    assert ended or beams == 1  # else the rule for ended beams went untested
    assert other or beams == 1
