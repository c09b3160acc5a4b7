"""Training samples as token ids, in length-bucketed batches whose order depends on nothing but seed
and epoch.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
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

Text = tuple[int, int]  # a sample, and which of its references


@dataclass(frozen=True)
class TrainingSet:
    """N samples: the key of their features and, for each reference, the token ids in front of what
    is learned and those that are learned, EOS last.

    A row of a batch has up to `texts_per_image` texts behind the features of one image: its samples
    (questions), or, if no image has several, the references of its one sample (captions).
    """

    media: list[str]
    texts: list[list[tuple[list[int], list[int]]]]
    texts_per_image: int = 1

    def __len__(self) -> int:
        """The rows of an epoch."""
        if self.texts_per_image == 1:
            return len(self.media)
        return sum(-(-len(of) // self.texts_per_image) for of in self.of_image.values())

    @cached_property
    def of_image(self) -> dict[str, list[int]]:
        """The samples of each image."""
        found = defaultdict(list)
        for sample, name in enumerate(self.media):
            found[name].append(sample)
        return dict(found)

    def length(self, texts: Sequence[Text]) -> int:
        """The tokens of a row."""
        return sum(sum(map(len, self.texts[sample][reference])) for sample, reference in texts)


@dataclass(frozen=True)
class Batch:
    """B rows: feature keys, token_ids [B, S] padded on the right, labels [B, S] (the next token or
    IGNORED); the epoch that reads them, the number of their samples and of their tokens, padding
    among them, and if a row has several texts, the number of each token's in `texts` [B, S] (-1 at
    padding). Of a part of a batch, `share` is its part of the batch's labels, and the numbers are
    those of the whole batch.
    """

    media: list[str]
    token_ids: Tensor
    labels: Tensor
    epoch: int = 0
    samples: int = 0
    tokens: int = 0
    texts: Tensor | None = None
    share: float = 1.0


def encode(
    llm: LLM, samples: Sequence[Sample], max_answer_tokens: int, texts_per_image: int = 1
) -> TrainingSet:
    """Tokenize prompts and references (cut to `max_answer_tokens`, EOS last).

    References that are blank are left out if a sample has others: the answers that humans left
    blank count in scores, but are nothing to learn. Raises TrainingError naming the samples without
    a reference of any token, and those that are longer than the LLM's positions; and for several
    texts of an image, if the LLM has recurrent layers.
    """
    if texts_per_image > 1 and llm.recurs:
        raise TrainingError(
            f"{llm.model.config.model_type} has recurrent layers, which remember one text in a row "
            "and not several: set train.texts_per_image to 1"
        )
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
    return TrainingSet([s.media for s in samples], found, texts_per_image)


def epoch_batches(
    data: TrainingSet, batch_size: int, seed: int, epoch: int
) -> list[list[list[Text]]]:
    """The batches of an epoch: rows of texts; each sample draws one of its references, unless a row
    holds several of them.

    Rows are shuffled, sorted by length within runs of 50 batches, and the batches shuffled again,
    so that a batch holds little padding and the order stays random. The same seed and epoch always
    give the same batches.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    order = generator.permutation(len(data)).tolist()
    draws = generator.random(len(data.media))
    chosen = [int(draw * len(texts)) for draw, texts in zip(draws, data.texts, strict=True)]
    if data.texts_per_image == 1:
        rows = [[(sample, chosen[sample])] for sample in range(len(data))]
    else:
        rows = list(_shared_rows(data, chosen, generator))
    batches = []
    for start in range(0, len(order), BUCKET * batch_size):
        run = [rows[i] for i in order[start : start + BUCKET * batch_size]]
        run.sort(key=data.length)
        batches += [run[i : i + batch_size] for i in range(0, len(run), batch_size)]
    return [batches[i] for i in generator.permutation(len(batches))]


def _shared_rows(
    data: TrainingSet, chosen: Sequence[int], generator: np.random.Generator
) -> Iterator[list[Text]]:
    """The rows of an epoch, each of several texts of one image, dealt anew."""
    count = data.texts_per_image
    captions = len(data.of_image) == len(data.media)
    for samples in data.of_image.values():
        if captions:
            sample = samples[0]
            drawn = generator.permutation(len(data.texts[sample]))[:count]
            yield [(sample, int(reference)) for reference in drawn]
            continue
        dealt = [samples[i] for i in generator.permutation(len(samples))]
        for start in range(0, len(dealt), count):
            yield [(sample, chosen[sample]) for sample in dealt[start : start + count]]


def collate(
    data: TrainingSet, rows: Sequence[Sequence[Text]], padding: int, multiple: int = 1
) -> Batch:
    """Lay prompt and answer side by side, the texts of a row one behind the other; only an answer's
    tokens and its EOS are labels. The width is a `multiple`, so that there are few shapes.
    """
    width = max(data.length(row) - len(row) for row in rows)
    width += -width % multiple
    token_ids = torch.full((len(rows), width), padding)
    labels = torch.full((len(rows), width), IGNORED)
    texts = torch.full((len(rows), width), -1)
    for i, row in enumerate(rows):
        start = 0
        for number, (sample, reference) in enumerate(row):
            prompt, answer = data.texts[sample][reference]
            text = torch.tensor(prompt + answer[:-1])
            end = start + len(text)
            token_ids[i, start:end] = text
            labels[i, start + len(prompt) - 1 : end] = torch.tensor(answer)
            texts[i, start:end] = number
            start = end
    media = [data.media[row[0][0]] for row in rows]
    several = texts if data.texts_per_image > 1 else None
    counts = {"samples": sum(map(len, rows)), "tokens": token_ids.numel()}
    return Batch(media, token_ids, labels, **counts, texts=several)


def batch_stream(
    data: TrainingSet,
    batch_size: int,
    seed: int,
    skip: int,
    per_epoch: int | None = None,
    multiple: int = 1,
) -> Iterator[Batch]:
    """All batches from epoch 0 on, without end, the first `skip` left out (they were trained before
    a resume); of each epoch the first `per_epoch`, or all.
    """
    per_epoch = per_epoch or -(-len(data) // batch_size)
    epoch, first = divmod(skip, per_epoch)
    while True:
        for rows in epoch_batches(data, batch_size, seed, epoch)[first:per_epoch]:
            yield replace(collate(data, rows, 0, multiple), epoch=epoch)
        epoch, first = epoch + 1, 0
