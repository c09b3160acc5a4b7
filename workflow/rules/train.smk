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
def inputs_of(runs):
    """Input function: what the training of runs that differ in the seed reads."""

    def inputs(wildcards):
        plans = [CONFIG.plan(run) for run in runs]
        subsets = [plan.training_inputs()["subset"] for plan in plans]
        return of_models({**plans[0].training_inputs(), "subset": subsets}, plans[0])

    return inputs


def settings_of(runs):
    """Parameter function: the settings of their training."""
    seeds = {"seeds": [run.seed for run in runs]}
    return lambda wildcards: {**CONFIG.plan(runs[0]).training_settings(), **seeds}


def cost_of(runs):
    """The cost of their training as one job, by wildcards that it has none of."""

    def cost(wildcards=None):
        one = costs().training(CONFIG.plan(runs[0]))
        return None if one is None else replace(one, work=len(runs) * one.work)

    return cost


def how_of(runs):
    """Parameter function: what decides no result of their training."""
    plan = CONFIG.plan(runs[0])
    return lambda wildcards, threads: {
        "tracking": SETTINGS.tracking,
        "expected": expected(costs().training(plan)),
    }


for number, runs in enumerate(CONFIG.seeds_of_a_job()):
    # of the first seed, whose log and benchmark file are those of the job
    first = runs[0].path.removeprefix(f"{paths.RESULTS}/").replace("/runs/", "/")

    rule:
        name:
            f"train_seeds_{number}"
        input:
            unpack(inputs_of(runs)),
        output:
            adapter=[f"{run.path}/adapter.safetensors" for run in runs],
            record=[f"{run.path}/adapter.json" for run in runs],
            curve=[f"{run.path}/train.jsonl" for run in runs],
            rejects=[f"{run.path}/train.rejects.parquet" for run in runs],
        log:
            f"logs/train/{first}.log",
        benchmark:
            f"benchmarks/train/{first}.tsv"
        conda:
            "../../envs/depalm.yaml"
        threads: SETTINGS.threads.train
        resources:
            gpu=counted_gpus(),
            gres=slurm_gpus(),
            workers=CACHE.workers,
            runtime=request(minutes, "train", cost_of(runs)),
            mem_mb=request(megabytes, "train", cost_of(runs)),
        params:
            settings=settings_of(runs),
            how=how_of(runs),
            device=SETTINGS.device,
        script:
            "../scripts/train_seeds.py"

    workflow.ruleorder(f"train_seeds_{number}", "train")
