if SETTINGS.tune:

    rule tune:
        input:
            unpack(lambda w: of_models(cell_plan(w).tuning_inputs(), cell_plan(w))),
        output:
            tuned=paths.TUNED,
        log:
            f"logs/tune/{{dataset}}/{paths.CELLS}.log",
        benchmark:
            paths.BENCHMARK_TUNE
        conda:
            "../../envs/depalm.yaml"
        threads: SETTINGS.threads.train
        resources:
            gpu=counted_gpus,
            gres=slurm_gpus,
            workers=CACHE.workers,
            runtime=request(minutes, "tune", tuning),
            mem_mb=request(megabytes, "tune", tuning),
        params:
            settings=lambda wildcards: cell_plan(wildcards).tuning_settings(),
            how=lambda wildcards, threads: {"expected": expected(tuning(wildcards))},
            device=SETTINGS.device,
        script:
            "../scripts/tune.py"


rule train:
    input:
        unpack(lambda w: of_models(plan(w).training_inputs(), plan(w))),
    output:
        adapter=f"{paths.RUN}/adapter.safetensors",
        record=f"{paths.RUN}/adapter.json",
        curve=f"{paths.RUN}/train.jsonl",
        rejects=f"{paths.RUN}/train.rejects.parquet",
    log:
        f"logs/train/{{dataset}}/{paths.CELL}.log",
    benchmark:
        paths.BENCHMARK_TRAIN
    conda:
        "../../envs/depalm.yaml"
    threads: SETTINGS.threads.train
    resources:
        gpu=counted_gpus,
        gres=slurm_gpus,
        workers=CACHE.workers,
        runtime=request(minutes, "train", training),
        mem_mb=request(megabytes, "train", training),
    params:
        settings=lambda wildcards: plan(wildcards).training_settings(),
        # with `threads` it counts as derived: no reason to train again
        how=lambda wildcards, threads: {
            "tracking": SETTINGS.tracking,
            "expected": expected(training(wildcards)),
        },
        device=SETTINGS.device,
    script:
        "../scripts/train.py"
