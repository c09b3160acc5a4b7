rule train:
    input:
        manifest=paths.MANIFEST.replace("{split}", "train"),
        subset=paths.SUBSET,
        places=lambda wildcards: plan(wildcards).training.places,
        backbone_directory=lambda wildcards: plan(wildcards).backbone_weights,
        llm_directory=lambda wildcards: plan(wildcards).llm_directory,
        init=lambda wildcards: plan(wildcards).starts_from,
    output:
        adapter=f"{paths.RUN}/adapter.safetensors",
        record=f"{paths.RUN}/adapter.json",
        curve=f"{paths.RUN}/train.jsonl",
        rejects=f"{paths.RUN}/train.rejects.parquet",
    log:
        f"logs/train/{{dataset}}/{paths.CELL}.log",
    conda:
        "../../envs/depalm.yaml"
    threads: SETTINGS.threads.train
    resources:
        gpu=local_gpus,
        gres=cluster_gpus,
        workers=CACHE.workers,
        runtime=1440,
        mem_mb=32000,
    params:
        method=lambda wildcards: plan(wildcards).method.given(),
        backbone=lambda wildcards: plan(wildcards).backbone.given(),
        llm=lambda wildcards: plan(wildcards).llm.given(),
        features=lambda wildcards: plan(wildcards).training.given(),
        train=lambda wildcards: plan(wildcards).train.given(),
        seed=lambda wildcards: int(wildcards.seed),
        device=SETTINGS.device,
    script:
        "../scripts/train.py"
