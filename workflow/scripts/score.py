"""Score the predictions of a run against the references of its manifest."""

from depalm.evaluate import evaluate
from depalm.files import read_json, write_json
from depalm.job import start_job
from depalm.manifest import read_manifest

start_job(snakemake.log[0])
scores = evaluate(
    run=snakemake.params.run,
    metrics=snakemake.params.metrics,
    references={sample.id: sample.references for sample in read_manifest(snakemake.input.manifest)},
    predictions=snakemake.input.predictions,
    generated=read_json(snakemake.input.generated),
    trained=read_json(snakemake.input.trained),
)
write_json(snakemake.output.scores, scores)
