rule generate:
    input:
        manifest=paths.MANIFEST,
        places=lambda wildcards: plan(wildcards).testing(wildcards.split).places,
        backbone_directory=lambda wildcards: plan(wildcards).backbone_weights,
        llm_directory=lambda wildcards: plan(wildcards).llm_directory,
        adapter=lambda wildcards: plan(wildcards).adapter_files[0],
        record=lambda wildcards: plan(wildcards).adapter_files[1],
    output:
        predictions=f"{paths.RUN}/{{split}}.predictions.jsonl",
        summary=f"{paths.RUN}/{{split}}.generate.json",
        rejects=f"{paths.RUN}/{{split}}.generate.rejects.parquet",
    log:
        f"logs/generate/{{dataset}}/{paths.CELL}/{{split}}.log",
    conda:
        "../../envs/depalm.yaml"
    threads: SETTINGS.threads.generate
    resources:
        gpu=local_gpus,
        gres=cluster_gpus,
        workers=CACHE.workers,
        runtime=480,
        mem_mb=32000,
    params:
        method=lambda wildcards: plan(wildcards).method.given(),
        backbone=lambda wildcards: plan(wildcards).backbone.given(),
        llm=lambda wildcards: plan(wildcards).llm.given(),
        features=lambda wildcards: plan(wildcards).testing(wildcards.split).given(),
        generate=SETTINGS.generate.filled(),
        device=SETTINGS.device,
    script:
        "../scripts/generate.py"


rule score:
    input:
        manifest=paths.MANIFEST,
        predictions=rules.generate.output.predictions,
        generated=rules.generate.output.summary,
        adapter=lambda wildcards: plan(wildcards).adapter_files[0],
        record=lambda wildcards: plan(wildcards).adapter_files[1],
    output:
        scores=report(
            f"{paths.RUN}/{{split}}.scores.json",
            caption="../report/scores.rst",
            category="Runs",
            subcategory="{dataset}",
            labels={axis: f"{{{axis}}}" for axis in (*AXES[1:], "split")},
        ),
    log:
        f"logs/score/{{dataset}}/{paths.CELL}/{{split}}.log",
    conda:
        "../../envs/depalm.yaml"
    resources:
        runtime=60,
        mem_mb=8000,
    params:
        about=lambda wildcards: plan(wildcards).about(wildcards.split),
        metrics=lambda wildcards: plan(wildcards).dataset.metrics,
    script:
        "../scripts/score.py"
