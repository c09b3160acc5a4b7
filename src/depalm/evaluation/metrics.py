"""Metrics of generated text against its references, in the scale that the paper prints: times 100.

Captions are scored by the official programs that the package pycocoevalcap carries: the PTB
tokenizer of Stanford CoreNLP 3.4.1, METEOR 1.5 and SPICE 1.0 (Java), BLEU, ROUGE-L and CIDEr-D
(Python). Its thin wrappers around the Java programs are not used: they write into the installed
package, and wait for ever when a Java process dies. What scores is imported when it scores: a
configuration is checked against the metrics' names alone.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

from depalm.errors import shortened
from depalm.evaluation.java import MetricError, conversation, run_java
from depalm.evaluation.vqa_accuracy import aokvqa_accuracy, choice_accuracy, vqa_accuracy
from depalm.files import read_json
from depalm.progress import Progress

References = Mapping[str, Sequence[str]]  # sample id -> reference texts
Predictions = Mapping[str, str]  # sample id -> generated text


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


@dataclass(frozen=True)
class Metric:
    """A metric: its name in tables, and how it is computed, from 0 to 1.

    compute: gives the number, or several of which `part` is the place of this one; however many
        metrics have it, it runs once. None for the mean of other metrics, `mean_of`.
    captions: whether it takes captions tokenized by `tokenize`, and so needs Java.
    models: files that it needs and that pycocoevalcap does not carry.
    """

    title: str
    compute: Callable[[References, Predictions], Any] | None
    captions: bool = True
    models: tuple[Path, ...] = ()
    part: int | None = None
    mean_of: tuple[str, ...] = ()


def require(metrics: Collection[str]) -> None:
    """Raise MetricError if one of `metrics` is unknown, or needs Java and there is none."""
    unknown = sorted(set(metrics) - METRICS.keys())
    if unknown:
        raise MetricError(f"unknown metric {', '.join(unknown)}; known: {', '.join(METRICS)}")
    captions = [name for name in metrics if METRICS[name].captions]
    if captions and not TOKENIZER_JAR.is_file():
        raise MetricError(
            f"{', '.join(captions)}: pycocoevalcap is not installed, or without its Java programs; "
            "install depalm again with what it needs"
        )
    if captions and shutil.which("java") is None:
        raise MetricError(
            f"{', '.join(captions)}: caption metrics need Java, and no `java` is on the PATH. "
            "Install a Java runtime of version 8 or newer (Debian: default-jre-headless; conda: "
            "openjdk)"
        )


def unavailable(metrics: Collection[str]) -> dict[str, str]:
    """The metrics whose models are not installed, each with the reason.

    Nothing is downloaded.
    """
    return {
        name: f"needs {', '.join(missing)}, which pycocoevalcap does not carry; with internet "
        "access, `python -m pycocoevalcap.spice.get_stanford_models` installs them"
        for name in metrics
        if (missing := [path.name for path in METRICS[name].models if not path.is_file()])
    }


def score(
    references: References, predictions: Predictions, metrics: Collection[str]
) -> dict[str, float]:
    """Score predictions against the references of the same samples: metric -> percent.

    Raises MetricError if a metric cannot run here, if the two have different ids, if a sample has
    no reference, or if there is no sample at all.
    """
    require(metrics)
    for name, reason in unavailable(metrics).items():
        raise MetricError(f"{name}: {reason}")
    different = sorted(references.keys() ^ predictions.keys())
    if different:
        raise MetricError(f"samples without prediction, or the other way: {shortened(different)}")
    if not references:
        raise MetricError("there is no prediction to score")
    bare = [key for key, texts in references.items() if not texts]
    if bare:
        raise MetricError(f"samples without any reference cannot be scored: {shortened(bare)}")
    raw = tokenized = (references, predictions)
    if any(METRICS[name].captions for name in metrics):
        tokenized = tokenize(references, predictions)
    computed: dict[Any, Any] = {}

    def value(name: str) -> float:
        metric = METRICS[name]
        if metric.compute is None:
            return fmean(map(value, metric.mean_of))
        if metric.compute not in computed:
            computed[metric.compute] = metric.compute(*(tokenized if metric.captions else raw))
        found = computed[metric.compute]
        return float(found if metric.part is None else found[metric.part])

    return {name: 100 * value(name) for name in metrics}


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


def bleu(references: References, predictions: Predictions) -> list[float]:
    """Corpus BLEU of n-grams up to 1, 2, 3 and 4 (Papineni et al. 2002), closest reference
    length.
    """
    from pycocoevalcap.bleu.bleu import Bleu

    scores, _ = Bleu(4).compute_score(*_listed(references, predictions), verbose=0)
    return list(map(float, scores))


def rouge_l(references: References, predictions: Predictions) -> float:
    """Mean ROUGE-L (Lin 2004)."""
    from pycocoevalcap.rouge.rouge import Rouge

    mean, _ = Rouge().compute_score(*_listed(references, predictions))
    return float(mean)


def cider(references: References, predictions: Predictions) -> float:
    """CIDEr-D (Vedantam et al. 2015), document frequencies from these references; at most 10."""
    from pycocoevalcap.cider.cider import Cider

    mean, _ = Cider().compute_score(*_listed(references, predictions))
    return float(mean)


def meteor(references: References, predictions: Predictions) -> float:
    """METEOR 1.5 (Denkowski and Lavie 2014) for English, over the whole corpus.

    The program takes a line of captions and gives a line of statistics; the statistics of all
    samples are then given back to it, and it gives a score for each and one for all.
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
        *_, total = (java.answer() for _ in range(len(statistics) + 1))
        return float(total)


def spice(references: References, predictions: Predictions) -> float:
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
        return fmean(row["scores"]["All"]["f"] for row in read_json(result))


def _listed(
    references: References, predictions: Predictions
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The form of pycocoevalcap: equal ids in equal order, predictions as lists of one."""
    listed = {key: list(texts) for key, texts in references.items()}
    return listed, {key: [predictions[key]] for key in references}


METRICS = {
    "vqa_accuracy": Metric("Accuracy", vqa_accuracy, captions=False),
    "aokvqa_accuracy": Metric("Accuracy", aokvqa_accuracy, captions=False),
    "choice_accuracy": Metric("Choices", choice_accuracy, captions=False),
    "bleu_1": Metric("BLEU-1", bleu, part=0),
    "bleu_2": Metric("BLEU-2", bleu, part=1),
    "bleu_3": Metric("BLEU-3", bleu, part=2),
    "bleu_4": Metric("BLEU-4", bleu, part=3),
    "meteor": Metric("METEOR", meteor),
    "rouge_l": Metric("ROUGE-L", rouge_l),
    "cider": Metric("CIDEr", cider),
    "spice": Metric("SPICE", spice, models=SPICE_MODELS),
    # Liu et al. 2017
    "spider": Metric("SPIDEr", None, models=SPICE_MODELS, mean_of=("cider", "spice")),
}
