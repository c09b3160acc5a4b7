"""Generation of each method against uncached generation, four samples at a time.

The baseline passes each beam's whole text through the LLM again for every token, in float32; ours
must generate the same tokens, where it is in float32 too. (The library's own
`generate(use_cache=False)` is no baseline: given embeddings, it forgets them behind the first
token.)
"""

from collections.abc import Iterator

import torch
from setting import (
    BACKBONE,
    LLM_SHAPE,
    VOCABULARY,
    Row,
    in_bfloat16,
    median,
    method,
    product,
    random_llm,
    timed,
)
from torch import Tensor

from depalm.adapters.adapter import Adapter
from depalm.batch_size import ON_CPU
from depalm.generation.generate import beam_search
from depalm.llms.base import LLM
from depalm.llms.injection import Injection, hidden_states
from depalm.specs.base import Compute
from depalm.specs.settings import GenerateSpec

METHODS = ("qp_l0", "qp_inner", "limber_all", "c_attn")
BEAMS, NEW_TOKENS, PROMPT, TOGETHER = 3, 50, 12, 4
DECODING = GenerateSpec(beams=BEAMS, max_new_tokens=NEW_TOKENS)


def uncached(llm: LLM, prompts: Tensor, injection: Injection) -> list[list[int]]:
    """Beam search of prompts [B, S], in which no beam ends early."""
    batch = len(prompts)
    texts, scores = prompts[:, None], torch.zeros(batch, 1)  # [B, beams, S], [B, beams]
    for _ in range(NEW_TOKENS):
        beams = texts.shape[1]
        repeated = injection.select(torch.arange(batch).repeat_interleave(beams))
        hidden = hidden_states(llm, texts.flatten(0, 1), repeated)
        logits = llm.head(hidden[:, -1]).log_softmax(-1).view(batch, beams, -1)
        scores, flat = (scores[:, :, None] + logits).flatten(1).topk(BEAMS)
        parents, tokens = flat // VOCABULARY, flat % VOCABULARY
        kept = texts.gather(1, parents[:, :, None].expand(-1, -1, texts.shape[2]))
        texts = torch.cat((kept, tokens[:, :, None]), dim=2)
    return texts[:, 0, prompts.shape[1] :].tolist()


@torch.inference_mode()
def rows() -> Iterator[Row]:
    llm = random_llm()
    halved = in_bfloat16(llm)
    for name in METHODS:
        yield generation(name, llm, llm)
        yield generation(name, halved, llm, "bfloat16")


def generation(name: str, llm: LLM, plain_llm: LLM, compute: Compute = "float32") -> Row:
    """Samples a second of `llm`; the baseline of `plain_llm` is measured on four samples, of which
    all take as long.
    """
    adapter = Adapter(method(name), BACKBONE, LLM_SHAPE).eval()
    sizes = len(adapter.source_layers), BACKBONE.tokens, BACKBONE.width
    features = torch.randn(ON_CPU, *sizes)
    token_ids = torch.randint(3, VOCABULARY, (ON_CPU, PROMPT))
    valid = torch.ones_like(token_ids, dtype=torch.bool)
    ours: list[list[int]] = []
    theirs: list[list[int]] = []

    def batched() -> None:
        ours[:] = beam_search(llm, token_ids, valid, adapter(features, compute), DECODING)

    def plainly() -> None:
        theirs[:] = uncached(plain_llm, token_ids[:TOGETHER], adapter(features[:TOGETHER]))

    bound, least = product(batched, getattr(torch, compute))  # also the turn that does not count
    mine = [timed(batched) / ON_CPU for _ in range(3)]
    other = timed(plainly) / TOGETHER
    assert compute != "float32" or ours[:TOGETHER] == theirs, "not the same tokens"
    taken = median(mine)
    said = f"generation, {name}: {NEW_TOKENS} tokens, {BEAMS} beams"
    return Row(
        said + (f", {compute}" if compute != "float32" else ""),
        f"{1 / taken:.2f} samples/s",
        f"uncached, {TOGETHER} at a time: {1 / other:.3f} samples/s",
        other / taken,
        max(abs(taken - one) for one in mine) / taken,
        bound,
        least / ON_CPU / taken,
    )
