"""DePALM: adapters between frozen backbones and frozen LLMs, from sources to tables."""

from snakemake.utils import min_version

min_version("9.11")

if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/sources.smk"
include: "workflow/rules/manifest.smk"
include: "workflow/rules/cache.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/table.smk"


rule all:
    default_target: True
    input:
        [f"{paths.filled(paths.TABLE, table=table.name)}.html" for table in SETTINGS.tables],
        scores(CONFIG.runs),


rule scores:
    input:
        scores(CONFIG.runs),


rule caches:
    input:
        [shard for run in CONFIG.runs for shard in CONFIG.plan(run).cached_shards],
