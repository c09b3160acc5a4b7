rule train:
    input:
        manifest="results/{dataset}/manifest/train.parquet",
        subset="results/{dataset}/subsets/{fraction}/seed{seed}.txt",
        shards=run_shards("train"),
        llm=lambda wildcards: CONFIG.model_directory("llm", wildcards.llm),
    output:
        adapter=f"{RUN}/adapter.safetensors",
        adapter_config=f"{RUN}/adapter.json",
        summary=f"{RUN}/train.json",
        log=f"{RUN}/train.jsonl",
    log:
        "logs/train/{dataset}/{fraction}/{backbone}+{llm}/{method}/seed{seed}.log",
    conda:
        "../../envs/depalm.yaml"
    threads: config["threads"]["train"]
    resources:
        gpu=GPU,
        runtime=1440,
        mem_mb=32000,
    params:
        method=lambda wildcards: CONFIG.method(run_of(wildcards)),
        backbone=part("backbone"),
        llm=part("llm"),
        views=CONFIG.training_views,
        train=lambda wildcards: CONFIG.train_settings(run_of(wildcards)),
        seed=lambda wildcards: int(wildcards.seed),
        device=config["device"],
    script:
        "../scripts/train.py"
