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
            gpu=counted_gpus(),
            gres=slurm_gpus(),
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
    threads: SETTINGS.threads.train * SETTINGS.gpus.train
    resources:
        gpu=counted_gpus(SETTINGS.gpus.train),
        gres=slurm_gpus(SETTINGS.gpus.train),
        workers=CACHE.workers,
        runtime=request(minutes, "train", training),
        mem_mb=request(megabytes, "train", training),
    params:
        settings=lambda wildcards: plan(wildcards).training_settings(),
        # with `threads` it counts as derived: no reason to train again
        how=lambda wildcards, threads: {
            "tracking": SETTINGS.tracking,
            "expected": expected(training(wildcards)),
            "threads": max(1, threads // SETTINGS.gpus.train),
            **processes(SETTINGS.gpus.train),
        },
        device=SETTINGS.device,
    script:
        "../scripts/train.py"


# a job for several seeds of a run makes what `train` would make of each
for number, runs in enumerate(CONFIG.seeds_of_a_job()):

    rule:
        name:
            f"train_seeds_{number}"
        input:
            unpack(inputs_of_seeds(runs)),
        output:
            adapter=[f"{run.path}/adapter.safetensors" for run in runs],
            record=[f"{run.path}/adapter.json" for run in runs],
            curve=[f"{run.path}/train.jsonl" for run in runs],
            rejects=[f"{run.path}/train.rejects.parquet" for run in runs],
        log:
            f"logs/train/{{dataset}}/{paths.CELL}.log".format(**asdict(runs[0])),
        benchmark:
            paths.BENCHMARK_TRAIN.format(**asdict(runs[0]))
        conda:
            "../../envs/depalm.yaml"
        threads: SETTINGS.threads.train
        resources:
            gpu=counted_gpus(),
            gres=slurm_gpus(),
            workers=CACHE.workers,
            runtime=request(minutes, "train", cost_of_seeds(runs)),
            mem_mb=request(megabytes, "train", cost_of_seeds(runs)),
        params:
            settings=settings_of_seeds(runs),
            how=how_of_seeds(runs),
            device=SETTINGS.device,
        script:
            "../scripts/train_seeds.py"

    workflow.ruleorder(f"train_seeds_{number}", "train")
