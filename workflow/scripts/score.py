"""Score the predictions of a run against the references of its manifest."""

from depalm.datasets.manifest import read_manifest
from depalm.evaluation.scores import evaluate
from depalm.files import read_json, write_json
from depalm.process import job

with job(snakemake.log[0]):
    record = read_json(snakemake.input.record)
    scores = evaluate(
        run=snakemake.params.run,
        metrics=snakemake.params.metrics,
        references={
            sample.id: sample.references for sample in read_manifest(snakemake.input.manifest)
        },
        predictions=snakemake.input.predictions,
        generated=read_json(snakemake.input.generated),
        trained={"trainable_parameters": record["trainable_parameters"], **record["training"]},
    )
    write_json(snakemake.output.scores, scores)
