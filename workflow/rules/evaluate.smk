rule generate:
    input:
        unpack(lambda w: of_models(plan(w).testing_inputs(w.split), plan(w))),
    output:
        texts=f"{paths.RUN}/{{split}}.texts.jsonl",
        summary=f"{paths.RUN}/{{split}}.generate.json",
        rejects=f"{paths.RUN}/{{split}}.generate.rejects.parquet",
    log:
        f"logs/generate/{{dataset}}/{paths.CELL}/{{split}}.log",
    benchmark:
        paths.BENCHMARK_GENERATE
    conda:
        "../../envs/depalm.yaml"
    threads: SETTINGS.threads.generate * SETTINGS.gpus.generate
    resources:
        gpu=counted_gpus(SETTINGS.gpus.generate),
        gres=slurm_gpus(SETTINGS.gpus.generate),
        workers=CACHE.workers,
        runtime=request(minutes, "generate", generation),
        mem_mb=request(megabytes, "generate", generation),
    params:
        settings=lambda wildcards: plan(wildcards).testing_settings(wildcards.split),
        generate=SETTINGS.generate.given(),
        # with `threads` it counts as derived: no reason to generate again
        how=lambda wildcards, threads: {
            "expected": expected(generation(wildcards)),
            "threads": max(1, threads // SETTINGS.gpus.generate),
            **processes(SETTINGS.gpus.generate),
        },
        device=SETTINGS.device,
    script:
        "../scripts/generate.py"


rule score:
    input:
        manifest=paths.MANIFEST,
        texts=rules.generate.output.texts,
        generated=rules.generate.output.summary,
        # a path costs the plan less than a function, and most configurations train all their runs
        record=(
            (lambda wildcards: plan(wildcards).adapter_files[1])
            if CONFIG.has_checkpoints
            else rules.train.output.record
        ),
    output:
        scores=report(
            f"{paths.RUN}/{{split}}.scores.json",
            caption="../report/scores.rst",
            category="Runs",
            subcategory="{dataset}",
            labels={axis: f"{{{axis}}}" for axis in (*AXES[1:], "split")},
        ),
        predictions=f"{paths.RUN}/{{split}}.predictions.jsonl",
        samples=f"{paths.RUN}/{{split}}.samples.parquet",
    log:
        f"logs/score/{{dataset}}/{paths.CELL}/{{split}}.log",
    localrule: True
    conda:
        "../../envs/depalm.yaml"
    resources:
        runtime=60,
        mem_mb=8000,
    params:
        settings=lambda wildcards: plan(wildcards).scoring_settings(wildcards.split),
    script:
        "../scripts/score.py"
