"""The scores of single samples: for people beside the texts (predictions.jsonl), and for the
statistics of tables (samples.parquet).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from depalm.datasets.manifest import Sample
from depalm.evaluation.measured import Values
from depalm.evaluation.metrics import METRICS, Score
from depalm.evaluation.runs import TableError
from depalm.files import atomic_file
from depalm.parquet import read_parquet, write_parquet

TYPES = ("question_type", "answer_type")
COUNTS = ".counts"
DIGITS = 4  # of a sample's score, for people


@dataclass(frozen=True)
class SampleScores:
    """The scores of a run's N samples, in percent.

    ids: of the samples, in the order of the manifest; types: of question and answer, [N] each.
    scores: [N], by metric. counts: [N, C], of a metric whose score is made of their sums.
    """

    ids: pa.Array
    types: Mapping[str, pa.Array]
    scores: Mapping[str, Values]
    counts: Mapping[str, Values]

    def of(self, metric: str) -> Values:
        """What a score of many samples is made of: scores [N], or counts [N, C]."""
        return self.counts.get(metric, self.scores[metric])


def total(metric: str, values: Values) -> float:
    """The score of N samples in percent, from their scores [N] or counts [N, C]."""
    of_sums = METRICS[metric].of_sums
    return float(values.mean() if of_sums is None else 100 * of_sums(values.sum(axis=0)))


def write_sample_scores(
    path: Path | str, samples: Sequence[Sample], scores: Mapping[str, Score]
) -> None:
    """Write parquet: a row for each sample, with a column of its score for each metric, and one of
    its counts for those programs that have some.
    """
    columns: dict[str, Any] = {"id": [sample.id for sample in samples]}
    columns |= {name: [getattr(sample, name) for sample in samples] for name in TYPES}
    for name, found in scores.items():
        columns[name] = found.samples
        if found.counts is not None:
            width = found.counts.shape[1]
            flat = pa.array(found.counts.ravel())
            columns[_counts(name)] = pa.FixedSizeListArray.from_arrays(flat, width)
    write_parquet(path, pa.table(columns))


def read_sample_scores(path: Path | str, metrics: Sequence[str]) -> SampleScores:
    """The scores that `write_sample_scores` wrote, of some metrics. Raises TableError, and
    DamagedFile if they are not as they were written.
    """
    counted = {name: _counts(name) for name in metrics if METRICS[name].of_sums is not None}
    wanted = dict.fromkeys(["id", *TYPES, *metrics, *counted.values()])
    try:
        table = read_parquet(path)
        if lacking := [name for name in wanted if name not in table.column_names]:
            raise ValueError(f"no column {', '.join(lacking)}")
    except (OSError, ValueError) as error:
        raise TableError(
            f"{path} has no scores of samples ({error}): score the run again"
        ) from error
    columns = {name: table[name].combine_chunks() for name in wanted}
    counts = {
        name: columns[column].flatten().to_numpy().reshape(len(table), -1)  # [N C] -> [N, C]
        for name, column in counted.items()
    }
    return SampleScores(
        columns["id"],
        {name: columns[name] for name in TYPES},
        {name: columns[name].to_numpy() for name in metrics},
        counts,
    )


def write_predictions(
    path: Path | str,
    samples: Sequence[Sample],
    texts: Mapping[str, str],
    scores: Mapping[str, Score],
) -> None:
    """Write a line of JSON for each sample: id, media, prompt, prediction, references, and its
    score by the main metric, the first of `scores`; with several metrics, by each.
    """
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for i, sample in enumerate(samples):
            by = {name: round(float(found.samples[i]), DIGITS) for name, found in scores.items()}
            row = {
                "id": sample.id,
                "media": sample.media,
                "prompt": sample.prompt,
                "prediction": texts[sample.id],
                "references": sample.references,
                "score": next(iter(by.values()), None),
                **({"scores": by} if len(by) > 1 else {}),
            }
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def sample_file(scores: Path | str) -> Path:
    """The sample scores that lie beside a scores.json."""
    path = Path(scores)
    return path.with_name(path.name.replace("scores.json", "samples.parquet"))


def _counts(metric: str) -> str:
    """The column of the counts of a metric's program."""
    program = METRICS[metric].compute
    assert program is not None
    return program.__name__ + COUNTS
