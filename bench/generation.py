"""Cached, batched beam search against uncached generation one by one, with the same adapter.

The baseline passes each beam's whole text through the LLM again for every token, one sample at a
time; both must generate the same tokens. (The library's own `generate(use_cache=False)` is no
baseline: given embeddings, it forgets them behind the first token.)
Usage: python bench/generation.py [threads]
"""

import sys

import torch
from setting import BACKBONE, BATCH, LLM_SHAPE, VOCABULARY, method, random_llm, report, seconds
from torch import Tensor

from depalm.adapters.adapter import Adapter
from depalm.generation.generate import beam_search
from depalm.llms.base import LLM
from depalm.llms.injection import Injection, hidden_states
from depalm.specs.method import CrossAttentionInjection, InnerInjection
from depalm.specs.settings import GenerateSpec

METHODS = ("qp_l0", "qp_inner", "c_attn")
BEAMS, NEW_TOKENS, PROMPT = 3, 50, 12


def uncached(llm: LLM, prompt: Tensor, injection: Injection) -> list[int]:
    """Beam search of one sample, prompt [S], in which no beam ends early."""
    texts, scores = prompt[None], torch.zeros(1)
    for _ in range(NEW_TOKENS):
        repeated = injection.select(torch.zeros(len(texts), dtype=torch.long))
        hidden = hidden_states(llm, texts, repeated)
        totals = scores[:, None] + llm.head(hidden[:, -1]).log_softmax(-1)  # [beams, V]
        scores, flat = totals.flatten().topk(BEAMS)
        parents, tokens = flat // VOCABULARY, flat % VOCABULARY
        texts = torch.cat((texts[parents], tokens[:, None]), dim=1)
    return texts[0, len(prompt) :].tolist()


@torch.inference_mode()
def compare(name: str, llm: LLM) -> None:
    spec = method(name)
    if isinstance(spec.inject, InnerInjection | CrossAttentionInjection):
        targets = {"targets": {"count": 6, "end": -2}}  # of 12 layers
        spec = method(name, inject=spec.inject.given() | targets)
    adapter = Adapter(spec, BACKBONE, LLM_SHAPE).eval()
    features = torch.randn(BATCH, len(adapter.source_layers), BACKBONE.tokens, BACKBONE.width)
    token_ids = torch.randint(3, VOCABULARY, (BATCH, PROMPT))
    valid = torch.ones_like(token_ids, dtype=torch.bool)
    decoding = GenerateSpec(beams=BEAMS, max_new_tokens=NEW_TOKENS, batch_size=BATCH)
    ours: list[list[int]] = []
    theirs: list[list[int]] = []

    def batched() -> None:
        ours[:] = beam_search(llm, token_ids, valid, adapter(features), decoding)

    def one_by_one() -> None:
        theirs[:] = [
            uncached(llm, token_ids[i], adapter(features[i : i + 1])) for i in range(BATCH)
        ]

    report(
        f"{name}, {BATCH} x {NEW_TOKENS} tokens, {BEAMS} beams, batched and cached",
        seconds(batched),
        seconds(one_by_one, runs=1, warmup=0),
        "uncached, one by one",
    )
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    distinct = len({tuple(text) for text in ours})
    print(f"  the same tokens in {same} of {BATCH} samples, {distinct} distinct texts")


def main(threads: int) -> None:
    torch.set_num_threads(threads)
    llm = random_llm()
    for name in METHODS:
        compare(name, llm)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
