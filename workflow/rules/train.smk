rule train:
    input:
        manifest="results/{dataset}/manifest/train.parquet",
        subset="results/{dataset}/subsets/{fraction}/seed{seed}.txt",
        shards=run_shards("train"),
        media=run_media,
        backbone_directory=run_backbone,
        llm_directory=lambda wildcards: CONFIG.model_directory("llm", wildcards.llm),
        init=init_adapter,
    output:
        adapter=f"{RUN}/adapter.safetensors",
        record=f"{RUN}/adapter.json",
        curve=f"{RUN}/train.jsonl",
        rejects=f"{RUN}/train.rejects.parquet",
    log:
        "logs/train/{dataset}/{fraction}/{backbone}+{llm}/{method}/seed{seed}.log",
    conda:
        "../../envs/depalm.yaml"
    threads: config["threads"]["train"]
    resources:
        gpu=local_gpus,
        gres=cluster_gpus,
        workers=config["cache"]["workers"],
        runtime=1440,
        mem_mb=32000,
    params:
        method=lambda wildcards: CONFIG.method(run_of(wildcards)),
        backbone=part("backbone"),
        llm=part("llm"),
        urls=run_shards("train", streamed=True),
        views=CONFIG.training_views,
        decoding=run_decoding,
        train=lambda wildcards: CONFIG.train_settings(run_of(wildcards)),
        seed=lambda wildcards: int(wildcards.seed),
        device=config["device"],
    script:
        "../scripts/train.py"
