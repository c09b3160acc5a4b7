"""Scores of captions against the official program, which runs each metric on its own.

As many captions as COCO's Karpathy test split has (5,000, five references each), of words at
random. Both compute BLEU-1 to 4, METEOR, ROUGE-L and CIDEr, and give the same numbers.
"""

import random
import shutil
from collections.abc import Iterator

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
from setting import Row, compared

from depalm.evaluation.metrics import score

SAMPLES = 5000
METRICS = ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "cider"]
WORDS = [f"word{i}" for i in range(500)]


def rows() -> Iterator[Row]:
    if shutil.which("java") is None:
        return
    draw = random.Random(0)

    def caption() -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(7, 14)))

    references = {str(i): [caption() for _ in range(5)] for i in range(SAMPLES)}
    predictions = {name: caption() for name in references}

    def official() -> None:
        tokenizer = PTBTokenizer()
        truth = tokenizer.tokenize(
            {name: [{"caption": text} for text in texts] for name, texts in references.items()}
        )
        found = tokenizer.tokenize(
            {name: [{"caption": text}] for name, text in predictions.items()}
        )
        for scorer in (Bleu(4), Meteor(), Rouge(), Cider()):
            scorer.compute_score(truth, found)

    yield compared(
        f"scores of {SAMPLES:,} captions",
        lambda: score(references, predictions, METRICS),
        official,
        "pycocoevalcap",
        runs=1,
    )
