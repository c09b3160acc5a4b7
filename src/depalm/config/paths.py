"""The path grammar: where every file of the workflow lies, once.

A name in braces is a wildcard of Snakemake's, and a field of `str.format`.
"""

RESULTS = "results"
DOWNLOAD = "resources/downloads/{kind}/{part}"
MODEL = "resources/models/{kind}/{part}"  # what was downloaded, converted
MANIFEST = f"{RESULTS}/{{dataset}}/manifest/{{split}}.parquet"
SUBSET = f"{RESULTS}/{{dataset}}/subsets/{{fraction}}/seed{{seed}}.txt"
SHARD = (
    f"{RESULTS}/{{dataset}}/cache/{{backbone}}/view{{view}}/{{split}}/shard-{{shard}}-of-{{shards}}"
)
CELL = "{fraction}/{backbone}+{llm}/{method}/seed{seed}"
RUN = f"{RESULTS}/{{dataset}}/runs/{CELL}"
TABLE = f"{RESULTS}/tables/{{table}}"
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
    "shard": "[0-9]+",
    "shards": "[0-9]+",
    "table": "[A-Za-z0-9_-]+",
}
