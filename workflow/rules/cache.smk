rule extract:
    input:
        manifest=paths.MANIFEST,
        data=lambda wildcards: PARTS.media_directory(wildcards.dataset),
        weights=lambda wildcards: PARTS.directory("backbone", wildcards.backbone),
    output:
        shard=directory(SHARD) if CACHE.format == "zarr" else SHARD,
        rejects=f"{paths.SHARD}.rejects.parquet",
    log:
        "logs/extract/{dataset}/{backbone}/view{view}/{split}/shard-{shard}-of-{shards}.log",
    conda:
        "../../envs/depalm.yaml"
    threads: SETTINGS.threads.extract
    resources:
        gpu=local_gpus,
        gres=cluster_gpus,
        workers=CACHE.workers,
        runtime=720,
        mem_mb=16000,
    params:
        backbone=lambda wildcards: PARTS.backbone(wildcards.backbone).given(),
        layers=lambda wildcards: CONFIG.layers(wildcards.dataset, wildcards.backbone),
        view=lambda wildcards: int(wildcards.view),
        index=lambda wildcards: int(wildcards.shard),
        shards=lambda wildcards: int(wildcards.shards),
        cache=lambda wildcards: CONFIG.extraction(wildcards.dataset),
        device=SETTINGS.device,
    script:
        "../scripts/extract.py"


if CACHE.url:

    ruleorder: fetch_shard > extract

    rule fetch_shard:
        output:
            shard=SHARD,
            rejects=f"{paths.SHARD}.rejects.parquet",
        log:
            "logs/fetch_shard/{dataset}/{backbone}/view{view}/{split}/shard-{shard}-of-{shards}.log",
        localrule: True
        conda:
            "../../envs/depalm.yaml"
        resources:
            runtime=720,
            mem_mb=4000,
        params:
            url=CACHE.url,
            backbone=lambda wildcards: PARTS.backbone(wildcards.backbone).given(),
            view=lambda wildcards: int(wildcards.view),
        script:
            "../scripts/fetch_shard.py"


rule cache_size:
    input:
        manifests=lambda _: [
            manifest(cache["dataset"], cache["split"]) for cache in CONFIG.caches()
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
        caches=lambda _: CONFIG.caches(),
        format=CACHE.format,
    script:
        "../scripts/cache_size.py"
