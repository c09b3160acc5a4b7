"""Cached, batched beam search against uncached generation one by one, with the same adapter.

The baseline is the library's own `generate` with `use_cache=False` on the same embeddings, so this
holds for injection at L0; both must generate the same tokens. For the other places the baseline is
the forward passes that such generation needs. Usage: python bench/generation.py [threads]
"""

import sys

import torch
from setting import BACKBONE, BATCH, LLM_SHAPE, VOCABULARY, method, random_llm, report, seconds
from torch import Tensor

from depalm.adapter import Adapter
from depalm.generate import Decoding, beam_search
from depalm.injection import hidden_states
from depalm.llms import LlamaLLM

BEAMS, NEW_TOKENS, PROMPT = 3, 50, 12


@torch.inference_mode()
def main(threads: int) -> None:
    torch.set_num_threads(threads)
    llm = random_llm()
    adapter = Adapter(method("qp_l0"), BACKBONE, LLM_SHAPE).eval()
    features = torch.randn(BATCH, 1, BACKBONE["tokens"], BACKBONE["width"])
    token_ids = torch.randint(3, VOCABULARY, (BATCH, PROMPT))
    valid = torch.ones_like(token_ids, dtype=torch.bool)
    decoding = Decoding(BEAMS, NEW_TOKENS, BATCH)
    ours: list[list[int]] = []
    theirs: list[list[int]] = []

    def batched() -> None:
        ours[:] = beam_search(llm, token_ids, valid, adapter(features), decoding)

    def one_by_one() -> None:
        theirs.clear()
        for i in range(BATCH):
            injection = adapter(features[i : i + 1])
            assert injection.prompt is not None
            prompt = injection.prompt[None]
            embeddings = torch.cat(
                (injection.tokens[0], prompt, llm.embed(token_ids[i : i + 1])), dim=1
            )
            output = llm.model.generate(
                inputs_embeds=embeddings,
                attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
                num_beams=BEAMS,
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                use_cache=False,
                eos_token_id=None,
                pad_token_id=0,
            )
            theirs.append(output[0].tolist())

    report(
        f"{BATCH} x {NEW_TOKENS} tokens, {BEAMS} beams, batched and cached",
        seconds(batched),
        seconds(one_by_one, runs=1, warmup=0),
        "uncached, one by one",
    )
    print("same tokens:", ours == theirs)
    for name in ("qp_inner", "c_attn"):
        compare_passes(name, llm, token_ids, valid, decoding)


def compare_passes(
    name: str, llm: LlamaLLM, token_ids: Tensor, valid: Tensor, decoding: Decoding
) -> None:
    spec = method(name)
    spec["inject"]["targets"] = {"count": 6, "end": -2}  # of 12 layers
    adapter = Adapter(spec, BACKBONE, LLM_SHAPE).eval()
    features = torch.randn(BATCH, len(adapter.source_layers), BACKBONE["tokens"], BACKBONE["width"])
    whole = torch.randint(3, VOCABULARY, (BEAMS, PROMPT + NEW_TOKENS))

    def cached() -> None:
        beam_search(llm, token_ids, valid, adapter(features), decoding)

    def uncached() -> None:
        for i in range(BATCH):
            injection = adapter(features[i : i + 1]).select(torch.zeros(BEAMS, dtype=torch.long))
            for length in range(PROMPT, PROMPT + NEW_TOKENS):
                llm.head(hidden_states(llm, whole[:, :length], injection)[:, -1])

    ours = seconds(cached)
    report(name, ours, seconds(uncached, runs=1, warmup=0), "its forward passes uncached")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
