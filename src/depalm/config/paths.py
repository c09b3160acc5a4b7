"""The path grammar: where every file of the workflow lies, once.

A name in braces is a wildcard of Snakemake's, and a field of `str.format`.
"""

from pathlib import PurePosixPath

from depalm.cache.formats import LAYERS

RESULTS = "results"
DOWNLOAD = "resources/downloads/{kind}/{part}"
MODEL = "resources/models/{kind}/{part}"  # what was downloaded, converted
# what is in such a folder, told by a small file, of which Snakemake compares the content
DOWNLOAD_RECORD = "resources/downloads/.records/{kind}/{part}.json"
MODEL_RECORD = "resources/models/.records/{kind}/{part}.json"
MANIFEST = f"{RESULTS}/{{dataset}}/manifest/{{split}}.parquet"
SUBSET = f"{RESULTS}/{{dataset}}/subsets/{{fraction}}/seed{{seed}}.json"
# The states of what a manifest is made of, and of the files of a user's own model. Each is alone in
# its folder: Snakemake lists a folder once, and takes what is written there later for missing.
STATE = f"{RESULTS}/{{dataset}}/state/{{split}}/files.json"
MODEL_STATE = f"{RESULTS}/models/{{kind}}/{{part}}/files.json"
FILES = f"{RESULTS}/{{dataset}}/manifest/{{split}}.files.parquet"
STORE = f"{RESULTS}/cache"  # of all datasets
VIEW = f"{RESULTS}/{{dataset}}/cache/{{backbone}}/view{{view}}/{{split}}"
RECEIPT = f"{VIEW}/{{layers}}.json"
EXTRACTIONS = f"{VIEW}/extraction"
EXTRACTION = f"{EXTRACTIONS}/{{layers}}/{{shard}}-of-{{shards}}.json"
CELLS = "{fraction}/{backbone}+{llm}/{method}"  # of all seeds
CELL = f"{CELLS}/seed{{seed}}"
RUN = f"{RESULTS}/{{dataset}}/runs/{CELL}"
TABLE = f"{RESULTS}/tables/{{table}}"
# what tuning has chosen
TUNED = f"{RESULTS}/{{dataset}}/tuned/{CELLS}/tuned.json"
# what jobs took, by Snakemake
BENCHMARK_EXTRACT = (
    "benchmarks/extract/{dataset}/{backbone}/view{view}/{split}/{layers}/{shard}-of-{shards}.tsv"
)
BENCHMARK_TRAIN = f"benchmarks/train/{{dataset}}/{CELL}.tsv"
BENCHMARK_TUNE = f"benchmarks/tune/{{dataset}}/{CELLS}.tsv"
BENCHMARK_GENERATE = f"benchmarks/generate/{{dataset}}/{CELL}/{{split}}.tsv"
REPORT = f"{RESULTS}/report.html"
SHOWN = f"{RESULTS}/report"  # what its gallery shows
# folders in RESULTS, so no datasets
RESERVED = ("cache", "models", "report", "tables")
# what each wildcard matches, where names of parts may hold almost anything
WILDCARDS = {
    "kind": "datasets|backbones|llms",
    "part": "[^/]+",
    "dataset": "[^/]+",
    "backbone": "[^/+]+",
    "llm": "[^/+]+",
    "method": "[^/]+",
    "fraction": "[0-9.]+pct",
    "seed": "[0-9]+",
    "split": "train|val|test",
    "view": "[0-9]+",
    "layers": LAYERS.pattern,
    "shard": "[0-9]+",
    "shards": "[0-9]+",
    "table": "[A-Za-z0-9_-]+",
}


def table_files(name: str) -> list[str]:
    """The files of a result table."""
    endings = ("csv", "md", "tex", "html", "pairs.csv")
    return [f"{TABLE.format(table=name)}.{ending}" for ending in endings]


def record_of(folder: str) -> str | None:
    """The record of a folder that a rule fetches or converts; None for a user's own."""
    parts = PurePosixPath(folder).parts
    for pattern, record in ((DOWNLOAD, DOWNLOAD_RECORD), (MODEL, MODEL_RECORD)):
        if len(parts) == 4 and "/".join(parts[:2]) == pattern.partition("/{")[0]:
            return record.format(kind=parts[2], part=parts[3])
    return None
