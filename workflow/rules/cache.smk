rule extract:
    input:
        manifest="results/{dataset}/manifest/{split}.parquet",
        data=lambda wildcards: CONFIG.data_directory(wildcards.dataset),
        weights=lambda wildcards: CONFIG.model_directory("backbone", wildcards.backbone),
    output:
        shard=directory(f"{CACHE}/shard-{{shard}}-of-{{shards}}.zarr"),
        rejects=f"{CACHE}/shard-{{shard}}-of-{{shards}}.rejects.parquet",
    log:
        "logs/extract/{dataset}/{backbone}/view{view}/{split}/shard-{shard}-of-{shards}.log",
    conda:
        "../../envs/depalm.yaml"
    threads: config["threads"]["extract"]
    resources:
        gpu=GPU,
        runtime=720,
        mem_mb=16000,
    params:
        backbone=part("backbone"),
        layers=lambda wildcards: CONFIG.layers(wildcards.dataset, wildcards.backbone),
        view=lambda wildcards: int(wildcards.view),
        shard=lambda wildcards: int(wildcards.shard),
        shards=lambda wildcards: int(wildcards.shards),
        cache={
            **{
                key: config["cache"][key]
                for key in ("dtype", "batch_size", "workers", "decode_seconds")
                if key in config["cache"]
            },
            "max_reject_fraction": config["data"]["max_reject_fraction"],
        },
        device=config["device"],
    script:
        "../scripts/extract.py"
