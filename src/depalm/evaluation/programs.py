"""The official programs that score captions, as the package pycocoevalcap carries them: the PTB
tokenizer of Stanford CoreNLP 3.4.1, METEOR 1.5 and SPICE 1.0 (Java), BLEU, ROUGE-L and CIDEr-D
(Python).

Its thin wrappers around the Java programs are not used: they write into the installed package, and
wait for ever when a Java process dies. What scores is imported when it scores.
"""

import json
import tempfile
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import numpy as np

from depalm.evaluation.java import MetricError, conversation, run_java
from depalm.evaluation.measured import Measured, Predictions, References, Values
from depalm.files import read_json
from depalm.progress import Progress

ORDERS = 4  # n-grams of BLEU


def _folder(package: str) -> Path:
    """The folder of a package, without importing it; a missing folder if it is not installed."""
    spec = find_spec(package)
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    return Path(*places[:1]) if places else Path(f"no {package}")


CAPTION_EVALUATION = _folder("pycocoevalcap")
TOKENIZER_JAR = CAPTION_EVALUATION / "tokenizer" / "stanford-corenlp-3.4.1.jar"
METEOR_JAR = CAPTION_EVALUATION / "meteor" / "meteor-1.5.jar"
SPICE_JAR = CAPTION_EVALUATION / "spice" / "spice-1.0.jar"
SPICE_MODELS = tuple(
    CAPTION_EVALUATION / "spice" / "lib" / f"stanford-corenlp-3.6.0{part}.jar"
    for part in ("", "-models")
)


def tokenize(references: References, predictions: Predictions) -> tuple[References, Predictions]:
    """Penn Treebank tokens as in COCO's evaluation: lower case, no punctuation, joined by spaces.

    The tokenizer takes one caption a line, so any whitespace inside one becomes a space first: a
    line separator would shift all captions behind it.
    """
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    captions = [*chain.from_iterable(references.values()), *predictions.values()]
    lines = run_java(
        *("-cp", TOKENIZER_JAR, "edu.stanford.nlp.process.PTBTokenizer"),
        *("-preserveLines", "-lowerCase"),
        text="\n".join(" ".join(caption.split()) for caption in captions),
    ).split("\n")
    if len(lines) != len(captions):
        raise MetricError(f"the tokenizer made {len(lines)} lines of {len(captions)} captions")
    kept = (
        " ".join(word for word in line.split(" ") if word not in PUNCTUATIONS)
        for line in (line.rstrip() for line in lines)
    )
    tokens = {key: [next(kept) for _ in texts] for key, texts in references.items()}
    return tokens, {key: next(kept) for key in predictions}


def bleu(references: References, predictions: Predictions) -> Measured:
    """Corpus BLEU of n-grams up to 1, 2, 3 and 4 (Papineni et al. 2002), closest reference length.

    The counts of a sample are its right n-grams of each order, all its n-grams of each order, and
    the length of the closest reference.
    """
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    scorer = BleuScorer(n=ORDERS)
    for key, texts in references.items():
        scorer += (predictions[key], list(texts))
    scores, samples = scorer.compute_score(option="closest")
    counts = []
    for row in scorer.ctest:
        length = row["testlen"]
        closest = min(row["reflen"], key=lambda other: (abs(other - length), other))
        counts.append([*row["correct"], *row["guess"], closest])
    return Measured(
        list(map(float, scores)), np.array(samples).T, np.array(counts, dtype=np.float64)
    )


def bleu_of(order: int, sums: Values) -> Values:
    """BLEU of n-grams up to `order` from sums [..., 9] of the counts of samples: [...].

    It is the official formula, with what it adds against divisions by zero; it counts the words of
    the predictions as their n-grams of order 1.
    """
    tiny, small = 1e-15, 1e-9
    right, all_, reference = sums[..., :ORDERS], sums[..., ORDERS:-1], sums[..., -1]
    precision = (right[..., :order] + tiny) / (all_[..., :order] + small)
    ratio = (all_[..., 0] + tiny) / (reference + small)
    brevity = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return np.asarray(brevity * precision.prod(axis=-1) ** (1 / order))


def rouge_l(references: References, predictions: Predictions) -> Measured:
    """Mean ROUGE-L (Lin 2004)."""
    from pycocoevalcap.rouge.rouge import Rouge

    mean, samples = Rouge().compute_score(*_listed(references, predictions))
    return Measured([float(mean)], np.asarray(samples, dtype=np.float64)[:, None])


def cider(references: References, predictions: Predictions) -> Measured:
    """CIDEr-D (Vedantam et al. 2015), document frequencies from these references; at most 10."""
    from pycocoevalcap.cider.cider import Cider

    mean, samples = Cider().compute_score(*_listed(references, predictions))
    return Measured([float(mean)], np.asarray(samples, dtype=np.float64)[:, None])


def meteor(references: References, predictions: Predictions) -> Measured:
    """METEOR 1.5 (Denkowski and Lavie 2014) for English, over the whole corpus.

    The program takes a line of captions and gives a line of statistics, which are the counts of a
    sample; those of all samples are then given back to it, and it gives a score for each and one
    for all.
    """
    options = ["-", "-", "-stdio", "-l", "en", "-norm"]
    progress = Progress(len(references), "METEOR", "caption")
    with conversation("METEOR", "-Xmx2G", "-jar", METEOR_JAR, *options) as java:
        statistics = []
        for key, texts in references.items():
            java.tell(" ||| ".join(("SCORE", *texts, predictions[key])))
            statistics.append(java.answer())
            progress.advance()
        java.tell(" ||| ".join(("EVAL", *statistics)))
        *samples, total = (float(java.answer()) for _ in range(len(statistics) + 1))
    counts = np.array([list(map(float, line.split())) for line in statistics])
    whole = (counts[:, 0:2] == counts[:, 21:23]).all(axis=1) & (counts[:, 20] == 1)
    counts[whole, 20] = 0  # the program adds up the chunks of those alone that have a break
    return Measured([total], np.array(samples)[:, None], counts)


def meteor_of(sums: Values) -> Values:
    """METEOR 1.5 from sums [..., 23] of the statistics of samples: [...].

    They are: words of prediction and references, function words of both; for each of four matchers
    (exact, stem, synonym, paraphrase) matched content words of both and function words of both;
    chunks (0 if all words match in one) and matched words of both. The constants are those of its
    English ranking task.
    """
    alpha, beta, gamma, delta = 0.85, 0.2, 0.6, 0.75
    weights = np.repeat([1.0, 0.6, 0.8, 0.6], 2)
    words, function = sums[..., 0:2], sums[..., 2:4]  # [..., (prediction, reference)]
    matches = sums[..., 4:20].reshape(*sums.shape[:-1], 4, 2, 2)  # matcher, content or not, side
    rated = np.array([delta, 1 - delta])[:, None] * matches * weights[::2, None, None]
    length = delta * (words - function) + (1 - delta) * function
    chunks, matched = sums[..., 20], sums[..., 21:23]
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.moveaxis(rated.sum(axis=(-3, -2)) / length, -1, 0)
        harmonic = 1 / ((1 - alpha) / precision + alpha / recall)
        scores = harmonic * (1 - gamma * (chunks / matched.mean(axis=-1)) ** beta)
    return np.nan_to_num(scores, nan=0.0)


def spice(references: References, predictions: Predictions) -> Measured:
    """Mean SPICE F-score (Anderson et al. 2016) over scene graphs.

    No cache of parsed references is kept: the one of the program does not run on Java 17.
    """
    rows = [
        {"image_id": index, "test": predictions[key], "refs": list(texts)}
        for index, (key, texts) in enumerate(references.items())
    ]
    with tempfile.TemporaryDirectory() as folder:
        captions, result = Path(folder) / "captions.json", Path(folder) / "scores.json"
        captions.write_text(json.dumps(rows))
        run_java("-Xmx8G", "-jar", SPICE_JAR, captions, "-out", result, "-silent")
        found = {row["image_id"]: row["scores"]["All"]["f"] for row in read_json(result)}
    return Measured.mean(found[index] for index in range(len(rows)))


def _listed(
    references: References, predictions: Predictions
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The form of pycocoevalcap: equal ids in equal order, predictions as lists of one."""
    listed = {key: list(texts) for key, texts in references.items()}
    return listed, {key: [predictions[key]] for key in references}
