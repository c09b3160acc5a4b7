"""Training samples as token ids, in length-bucketed batches whose order depends on nothing but seed
and epoch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from depalm.datasets.manifest import Sample
from depalm.errors import shortened
from depalm.llms.base import LLM, require_positions
from depalm.training.schedule import TrainingError

BUCKET = 50  # batches are sorted by length within runs of this many
IGNORED = -100  # label of a position without a loss


@dataclass(frozen=True)
class TrainingSet:
    """N samples: the key of their features and, for each reference, the token ids in front of what
    is learned and those that are learned, EOS last.
    """

    media: list[str]
    texts: list[list[tuple[list[int], list[int]]]]

    def __len__(self) -> int:
        return len(self.media)


@dataclass(frozen=True)
class Batch:
    """B samples: feature keys, token_ids [B, S] padded on the right, labels [B, S] (the next token
    or IGNORED); and the epoch that reads them.
    """

    media: list[str]
    token_ids: Tensor
    labels: Tensor
    epoch: int = 0


def encode(llm: LLM, samples: Sequence[Sample], max_answer_tokens: int) -> TrainingSet:
    """Tokenize prompts and references (cut to `max_answer_tokens`, EOS last).

    References that are blank are left out if a sample has others: the answers that humans left
    blank count in scores, but are nothing to learn. Raises TrainingError naming the samples without
    a reference of any token, and those that are longer than the LLM's positions.
    """
    kept = [[text for text in s.references if text.strip()] for s in samples]
    distinct = [dict.fromkeys(texts) for texts in kept]
    pairs = [(s.prompt, text) for s, texts in zip(samples, distinct, strict=True) for text in texts]
    ids = iter(llm.answer_ids(pairs))
    found = []
    for all_of_it, texts in zip(kept, distinct, strict=True):
        ended = [
            (prompt, [*answer[:max_answer_tokens], llm.eos])
            for prompt, answer in islice(ids, len(texts))
        ]
        by_text = dict(zip(texts, ended, strict=True))
        found.append([by_text[text] for text in all_of_it])
    of_samples = zip(samples, found, strict=True)
    empty = [s.id for s, texts in of_samples if all(len(answer) == 1 for _, answer in texts)]
    if empty and llm.prompts.tokenize == "apart":  # else the prompt's last token may hold it
        raise TrainingError(
            f"{len(empty)} samples have no reference of any token, and nothing to learn: "
            f"{shortened(empty)}; correct them or leave them out"
        )
    require_positions(llm, samples, [max(len(p) + len(a) for p, a in texts) for texts in found])
    return TrainingSet([s.media for s in samples], found)


def epoch_batches(
    data: TrainingSet, batch_size: int, seed: int, epoch: int
) -> list[list[tuple[int, int]]]:
    """The batches of an epoch, as (sample, reference) pairs; each sample draws one of its
    references.

    Samples are shuffled, sorted by length within runs of 50 batches, and the batches shuffled
    again, so that a batch holds little padding and the order stays random. The same seed and epoch
    always give the same batches.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    order = generator.permutation(len(data))
    draws = generator.random(len(data))
    chosen = [int(draw * len(texts)) for draw, texts in zip(draws, data.texts, strict=True)]

    def length(sample: int) -> int:
        return sum(map(len, data.texts[sample][chosen[sample]]))

    batches = []
    for start in range(0, len(order), BUCKET * batch_size):
        run = sorted(order[start : start + BUCKET * batch_size].tolist(), key=length)
        batches += [run[i : i + batch_size] for i in range(0, len(run), batch_size)]
    return [
        [(sample, chosen[sample]) for sample in batches[i]]
        for i in generator.permutation(len(batches))
    ]


def collate(data: TrainingSet, pairs: Sequence[tuple[int, int]], padding: int) -> Batch:
    """Lay prompt and answer side by side; only the answer's tokens and its EOS are labels."""
    rows = [data.texts[sample][reference] for sample, reference in pairs]
    width = max(len(prompt) + len(answer) - 1 for prompt, answer in rows)
    token_ids = torch.full((len(rows), width), padding)
    labels = torch.full((len(rows), width), IGNORED)
    for row, (prompt, answer) in enumerate(rows):
        text = torch.tensor(prompt + answer[:-1])
        token_ids[row, : len(text)] = text
        labels[row, len(prompt) - 1 : len(text)] = torch.tensor(answer)
    return Batch([data.media[sample] for sample, _ in pairs], token_ids, labels)


def batch_stream(
    data: TrainingSet, batch_size: int, seed: int, skip: int, per_epoch: int | None = None
) -> Iterator[Batch]:
    """All batches from epoch 0 on, without end, the first `skip` left out (they were trained before
    a resume); of each epoch the first `per_epoch`, or all.
    """
    per_epoch = per_epoch or -(-len(data) // batch_size)
    epoch, first = divmod(skip, per_epoch)
    while True:
        for pairs in epoch_batches(data, batch_size, seed, epoch)[first:per_epoch]:
            yield replace(collate(data, pairs, padding=0), epoch=epoch)
        epoch, first = epoch + 1, 0
