rule extract:
    input:
        manifest="results/{dataset}/manifest/{split}.parquet",
        data=lambda wildcards: CONFIG.media_directory(wildcards.dataset),
        weights=lambda wildcards: CONFIG.model_directory("backbone", wildcards.backbone),
    output:
        shard=directory(f"{SHARD}.zarr") if FORMAT == "zarr" else f"{SHARD}{SUFFIX}",
        rejects=f"{SHARD}.rejects.parquet",
    log:
        "logs/extract/{dataset}/{backbone}/view{view}/{split}/shard-{shard}-of-{shards}.log",
    conda:
        "../../envs/depalm.yaml"
    threads: config["threads"]["extract"]
    resources:
        gpu=local_gpus,
        gres=cluster_gpus,
        workers=config["cache"]["workers"],
        runtime=720,
        mem_mb=16000,
    params:
        backbone=part("backbone"),
        layers=lambda wildcards: CONFIG.layers(wildcards.dataset, wildcards.backbone),
        view=lambda wildcards: int(wildcards.view),
        index=lambda wildcards: int(wildcards.shard),
        shards=lambda wildcards: int(wildcards.shards),
        cache=lambda wildcards: decoding(wildcards.dataset, "dtype", "batch_size"),
        device=config["device"],
    script:
        "../scripts/extract.py"


if "url" in config["cache"]:

    ruleorder: fetch_shard > extract

    rule fetch_shard:
        output:
            shard=f"{SHARD}{SUFFIX}",
            rejects=f"{SHARD}.rejects.parquet",
        log:
            "logs/fetch_shard/{dataset}/{backbone}/view{view}/{split}/shard-{shard}-of-{shards}.log",
        localrule: True
        conda:
            "../../envs/depalm.yaml"
        resources:
            runtime=720,
            mem_mb=4000,
        params:
            url=config["cache"]["url"],
            backbone=part("backbone"),
            view=lambda wildcards: int(wildcards.view),
        script:
            "../scripts/fetch_shard.py"


rule cache_size:
    input:
        manifests=lambda _: [
            f"results/{c['dataset']}/manifest/{c['split']}.parquet" for c in caches()
        ],
    log:
        "logs/cache_size.log",
    localrule: True
    conda:
        "../../envs/depalm.yaml"
    resources:
        runtime=10,
        mem_mb=4000,
    params:
        caches=lambda _: caches(),
        format=FORMAT,
    script:
        "../scripts/cache_size.py"
