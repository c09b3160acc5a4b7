"""Batched beam search with a KV cache around an injection (paper: 3 beams, 50 new tokens)."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from depalm.adapters.adapter import Adapter
from depalm.adapters.diagnosis import cause
from depalm.batch_size import fitting
from depalm.datasets.manifest import Sample
from depalm.errors import DepalmError, shortened
from depalm.features.base import FeatureSource, read, read_each
from depalm.files import atomic_file
from depalm.generation.decoder import Decoder, decoder_of
from depalm.generation.partial import Partial
from depalm.llms.base import LLM, require_positions
from depalm.llms.injection import Injection
from depalm.precision import float32_products
from depalm.progress import Progress
from depalm.specs.settings import GenerateSpec

LARGEST_BATCH = 128  # of `batch_size: auto`
MULTIPLE = 16  # the length of prompts with `fixed_shapes`
IMPOSSIBLE = -1e9  # score of a beam that cannot be chosen


class GenerationError(DepalmError):
    """Generation whose text would be senseless: the LLM's logits are not finite."""


class NonFiniteLogits(DepalmError):  # noqa: N818
    """Logits of some `rows` of a batch are NaN or infinite."""

    def __init__(self, rows: Sequence[int]):
        super().__init__(f"the logits of rows {list(rows)} are not finite")
        self.rows = rows


@torch.inference_mode()
def beam_search(
    llm: LLM,
    token_ids: Tensor,
    valid: Tensor,
    injection: Injection,
    decoding: GenerateSpec,
    rows: Tensor | None = None,
    decoder: Decoder | None = None,
) -> list[list[int]]:
    """Most probable continuation of each prompt [B, S] (`valid` False at padding): token ids
    without EOS.

    `rows` [B] is the row of `injection` that a prompt stands behind, if several share one: what is
    injected then goes through the LLM once. All beams of a sample share its prompt in the KV cache,
    and are told apart by a mask.

    The rule is that of Hugging Face's beam search with its defaults: the score of a finished beam
    is its log probability / length ** length_penalty, and a sample is done when none of its running
    beams, at their present length, can still beat its worst finished one. With `length_of: answer`
    a length counts what was generated and EOS, and beams that reach `max_new_tokens` end among the
    best candidates: transformers since 4.36. With `length_of: text` it counts prompt and answer
    without EOS, and all running beams end there: transformers before. Raises NonFiniteLogits.
    """
    decoder = decoder or decoder_of(llm, decoding)
    batch, beams, device = len(token_ids), decoding.beams, token_ids.device
    log_probs = decoder.start(token_ids, valid, injection, rows)  # [B, V]
    offered = min(2 * beams, log_probs.shape[-1])  # tokens of each beam
    whole = decoding.length_of == "text"
    before = valid.sum(dim=1, keepdim=True) if whole else 0  # [B, 1]: tokens of the prompt
    log_probs = log_probs[:, None].expand(-1, beams, -1)
    # all beams are equal before the first token, so only the first of them counts
    running = log_probs.new_full((batch, beams), IMPOSSIBLE)
    running[:, 0] = 0.0
    texts = token_ids.new_full((batch, beams, decoding.max_new_tokens), llm.eos)
    finished, finished_texts = log_probs.new_full((batch, beams), IMPOSSIBLE), texts.clone()
    done = torch.zeros(batch, 1, dtype=torch.bool, device=device)
    senseless = done.clone()

    for length in range(1, decoding.max_new_tokens + 1):
        # twice as many candidates as beams: if half of them end here, `beams` of them still go on
        best_of_each, tokens_of_each = log_probs.topk(offered)  # [B, beams, offered]
        totals = (running[:, :, None] + best_of_each).flatten(1)
        scores, chosen = totals.topk(2 * beams)  # [B, 2 beams]
        senseless |= scores[:, :1].isnan() & ~done  # NaN counts as greatest; infinity became NaN
        parents, tokens = chosen // offered, tokens_of_each.flatten(1).gather(1, chosen)
        candidates = _rows(texts, parents)
        candidates[:, :, length - 1] = tokens

        last = length == decoding.max_new_tokens
        ends = tokens == llm.eos
        counted = (ends | (last and not whole)) & (torch.arange(2 * beams, device=device) < beams)
        counted_length = (before + length - int(whole)) ** decoding.length_penalty
        ended = (scores / counted_length).masked_fill(~counted | done, IMPOSSIBLE)
        finished, finished_texts = _best(finished, finished_texts, ended, candidates)

        running, best = scores.masked_fill(ends, IMPOSSIBLE).topk(beams)
        texts = _rows(candidates, best)
        reached = running / (before + length) ** decoding.length_penalty  # [B, beams]
        done |= reached[:, :1] <= finished[:, -1:]
        if last and whole:
            reached = reached.masked_fill(done, IMPOSSIBLE)
            finished, finished_texts = _best(finished, finished_texts, reached, texts)
        ended_all, failed = torch.stack((done.all(), senseless.any())).tolist()
        if failed:
            raise NonFiniteLogits(senseless[:, 0].nonzero()[:, 0].tolist())
        if last or ended_all:
            break
        # [B, beams, V]
        log_probs = decoder.step(parents.gather(1, best), tokens.gather(1, best))
    return [_until(row, llm.eos) for row in finished_texts[:, 0].tolist()]


def _best(
    finished: Tensor, texts: Tensor, ended: Tensor, candidates: Tensor
) -> tuple[Tensor, Tensor]:
    """The best of the beams that are finished [B, beams] and of those that `ended` [B, N], with
    their texts.
    """
    scores, best = torch.cat((finished, ended), 1).topk(finished.shape[1])
    return scores, _rows(torch.cat((texts, candidates), 1), best)


def _rows(values: Tensor, chosen: Tensor) -> Tensor:
    """values [B, N, S], chosen [B, beams] -> [B, beams, S]."""
    return values.gather(1, chosen[:, :, None].expand(-1, -1, values.shape[2]))


def _until(tokens: list[int], eos: int) -> list[int]:
    return tokens[: tokens.index(eos)] if eos in tokens else tokens


def generate(
    llm: LLM,
    adapter: Adapter,
    samples: Sequence[Sample],
    source: FeatureSource,
    decoding: GenerateSpec,
    partial: Partial | None = None,
    before_writing: Callable[[], None] = lambda: None,
) -> list[str]:
    """The text of each sample, in order. Samples of one image, and of similar prompt length, share
    a batch.

    Batches whose texts are in `partial` are not generated again, and it keeps those of the others.
    `before_writing` is called before each, and ends generation by what it raises. Raises
    LLMError naming the samples that are longer than the LLM's positions, and GenerationError naming
    those whose logits are not finite, and the likely cause.
    """
    if not samples:
        return []
    work = _Generation(llm, adapter, samples, source, decoding)
    device, media = work.device, [sample.media for sample in samples]
    texts = {} if partial is None else dict(partial.texts)
    progress = Progress(len(samples), "generate", "sample", done=len(texts))

    def load(batch: _Due) -> Any:
        return source.load(batch.media)

    tuned, products = adapter.tuned("llm", llm.body), float32_products(decoding.compute, device)
    with torch.inference_mode(), tuned, products, ExitStack() as stack:
        size = fitting(decoding.batch_size, LARGEST_BATCH, work.probe, device)
        batches = batches_of(media, [len(ids) for ids in work.prompts], size)
        due = [_Due.of(rows, media) for rows in batches if not texts.keys() >= set(rows)]
        for batch, loaded in stack.enter_context(closing(read_each(due, load))):
            started = time.monotonic()
            found = work.texts(batch, source.tokens(loaded))
            before_writing()
            if partial is not None:
                partial.add(batch.samples, found, time.monotonic() - started)
            texts |= zip(batch.samples, found, strict=True)
            progress.advance(len(found))
    return [texts[i] for i in range(len(samples))]


def batches_of(media: Sequence[str], lengths: Sequence[int], size: int) -> list[list[int]]:
    """The samples in batches: those of one image side by side, the longest prompts first."""
    longest: dict[str, int] = {}
    for name, length in zip(media, lengths, strict=True):
        longest[name] = max(length, longest.get(name, 0))
    places = {name: place for place, name in enumerate(longest)}
    order = sorted(range(len(media)), key=lambda i: (-longest[media[i]], places[media[i]]))
    return [order[start : start + size] for start in range(0, len(order), size)]


@dataclass(frozen=True)
class _Due:
    """The indices of the `samples` of a batch, its distinct `media`, and for each sample the `rows`
    that its own stands in.
    """

    samples: list[int]
    media: list[str]
    rows: list[int]

    @classmethod
    def of(cls, samples: list[int], media: Sequence[str]) -> "_Due":
        names = list(dict.fromkeys(media[i] for i in samples))
        places = {name: place for place, name in enumerate(names)}
        return cls(samples, names, [places[media[i]] for i in samples])

    @property
    def shares(self) -> bool:
        return len(self.media) < len(self.samples)


class _Generation:
    """Generation for `samples`, batch by batch. Raises LLMError as `generate` does."""

    def __init__(
        self,
        llm: LLM,
        adapter: Adapter,
        samples: Sequence[Sample],
        source: FeatureSource,
        decoding: GenerateSpec,
    ):
        self.llm, self.adapter, self.samples = llm, adapter, samples
        self.source, self.decoding = source, decoding
        self.device = next(llm.model.parameters()).device
        self.prompts = llm.prompt_ids([sample.prompt for sample in samples])
        lengths = [len(ids) + decoding.max_new_tokens for ids in self.prompts]
        require_positions(llm, samples, lengths)
        self.decoder = decoder_of(llm, decoding)

    def probe(self, count: int) -> None:
        """Generate for the longest prompt, `count` times."""
        longest = max(range(len(self.prompts)), key=lambda i: len(self.prompts[i]))
        media = [self.samples[longest].media] * count
        self._search([longest] * count, read(self.source, media), None)

    def texts(self, batch: _Due, features: Tensor | None) -> list[str]:
        """The texts of a batch, with the features of its media. Raises GenerationError."""
        rows = torch.tensor(batch.rows, device=self.device) if batch.shares else None
        try:
            tokens = self._search(batch.samples, features, rows)
        except NonFiniteLogits as error:
            bad = None if features is None else features[[batch.rows[i] for i in error.rows]]
            affected = [self.samples[batch.samples[i]] for i in error.rows]
            why = cause(self.llm, self.adapter, bad, [sample.media for sample in affected])
            raise GenerationError(
                f"the logits of {shortened([sample.id for sample in affected])} are not "
                f"finite, so that no text would make sense: {why or 'the cause is unknown'}"
            ) from error
        decode = self.llm.tokenizer.decode
        return [decode(ids, skip_special_tokens=True).strip() for ids in tokens]

    def _search(
        self, samples: Sequence[int], features: Tensor | None, rows: Tensor | None
    ) -> list[list[int]]:
        multiple = MULTIPLE if self.decoding.fixed_shapes else 1
        prompts = [self.prompts[i] for i in samples]
        token_ids, valid = pad_left(prompts, self.llm.eos, multiple)
        inputs = token_ids.to(self.device), valid.to(self.device)
        injection = self.adapter(features, self.decoding.compute)
        return beam_search(self.llm, *inputs, injection, self.decoding, rows, self.decoder)


def pad_left(
    prompts: Sequence[Sequence[int]], padding: int, multiple: int = 1
) -> tuple[Tensor, Tensor]:
    """-> token_ids [B, S] padded on the left, valid [B, S], False at the padding; S is a
    `multiple`.
    """
    width = max(map(len, prompts))
    width += -width % multiple
    token_ids = torch.tensor([[padding] * (width - len(ids)) + list(ids) for ids in prompts])
    lengths = torch.tensor([len(ids) for ids in prompts])
    return token_ids, torch.arange(width) >= width - lengths[:, None]


def write_texts(path: Path, samples: Sequence[Sample], texts: Sequence[str]) -> None:
    """Write a line {"id", "prediction"} for each sample."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for sample, text in zip(samples, texts, strict=True):
            row = {"id": sample.id, "prediction": text}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
