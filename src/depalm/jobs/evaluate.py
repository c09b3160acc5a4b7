"""Scores of a run, and tables of scores (rules `score` and `table`)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from depalm.jobs.job import Job
from depalm.specs import TableSpec


@dataclass(frozen=True, kw_only=True)
class ScoreJob(Job):
    """Score the texts of a run against the references of its manifest.

    Inputs are the `manifest`, the `texts`, the summary `generated` of their generation, and the
    adapter's `record`. With the `train_manifest` the media that stand in both are counted. `about`
    says what the run was: dataset, split, fraction, backbone, llm, method, label, seed. The first
    of `metrics` is the primary one. Outputs are the file `scores`, the `predictions` with what was
    asked, the references and their scores (one JSON object a line), and the scores of the `samples`
    as a table.
    """

    command: ClassVar[str] = "score"

    manifest: str
    texts: str
    generated: str
    record: str
    train_manifest: str | None = None
    about: dict[str, Any]
    metrics: list[str]
    scores: str
    predictions: str
    samples: str

    def run(self) -> None:
        """Raises MetricError, and DamagedFile for an input that is not as it was written."""
        from depalm.datasets.manifest import read_manifest
        from depalm.datasets.splits import overlap
        from depalm.evaluation.samples import write_predictions, write_sample_scores
        from depalm.evaluation.scores import evaluate
        from depalm.files import read_checked, require_sha256, sha256_file, write_checked

        record, generated = read_checked(self.record), read_checked(self.generated)
        require_sha256(self.texts, generated.get("texts_sha256"))
        shared = None
        if self.train_manifest is not None:
            shared = overlap(self.train_manifest, self.manifest)
        summary, samples, texts, scores = evaluate(
            run=self.about,
            metrics=self.metrics,
            manifest=read_manifest(self.manifest),
            texts=self.texts,
            generated=generated,
            trained={"trainable_parameters": record["trainable_parameters"], **record["training"]},
            shared=shared,
        )
        write_predictions(self.predictions, samples, texts, scores)
        write_sample_scores(self.samples, samples, scores)
        sums = {"predictions_sha256": sha256_file(self.predictions)}
        write_checked(self.scores, {**summary, **sums})


@dataclass(frozen=True, kw_only=True)
class TableJob(Job):
    """Aggregate the scores of many runs into one result table.

    `scores` are the files of the runs, beside which the scores of their samples lie; `table` is the
    table's entry in the configuration. The scores in the CSV file `published` stand beside ours;
    null if there are none. Outputs are `csv`, `md`, `tex` and `html`, and in `pairs` the
    differences of any two rows.
    """

    command: ClassVar[str] = "table"

    scores: list[str]
    published: str | None = None
    table: TableSpec
    csv: str
    md: str
    tex: str
    html: str
    pairs: str

    def run(self) -> None:
        """Raises TableError."""
        from depalm.evaluation.render import write_table

        outputs = [self.csv, self.md, self.tex, self.html, self.pairs]
        write_table(self.scores, self.table, outputs, self.published)
