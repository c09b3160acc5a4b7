rule extract:
    input:
        manifest=paths.MANIFEST,
        models=lambda wildcards: WATCH.backbone(wildcards.backbone),
        fetched=lambda wildcards: fetched(
            PARTS.media_directory(wildcards.dataset),
            PARTS.directory("backbone", wildcards.backbone),
        ),
    output:
        report=paths.EXTRACTION,
    log:
        "logs/extract/{dataset}/{backbone}/view{view}/{split}/{layers}/{shard}-of-{shards}.log",
    benchmark:
        paths.BENCHMARK_EXTRACT
    conda:
        "../../envs/depalm.yaml"
    threads: SETTINGS.threads.extract
    resources:
        gpu=counted_gpus(),
        gres=slurm_gpus(),
        workers=CACHE.workers,
        runtime=request(minutes, "extract", extraction),
        mem_mb=request(megabytes, "extract", extraction),
    params:
        settings=lambda wildcards: STORE.encoder_settings(wildcards),
        how=lambda wildcards, threads: STORE.extraction_how(wildcards),
    script:
        "../scripts/extract.py"


if CACHE.url:

    ruleorder: fetch_rows > extract

    rule fetch_rows:
        input:
            manifest=paths.MANIFEST,
        output:
            report=paths.EXTRACTION,
        log:
            "logs/fetch_rows/{dataset}/{backbone}/view{view}/{split}/{layers}/{shard}-of-{shards}.log",
        localrule: True
        conda:
            "../../envs/depalm.yaml"
        resources:
            runtime=720,
            mem_mb=4000,
        params:
            settings=lambda wildcards: STORE.encoder_settings(wildcards),
            how=lambda wildcards, threads: STORE.extraction_how(wildcards),
        script:
            "../scripts/fetch_rows.py"


rule receipt:
    input:
        manifest=paths.MANIFEST,
        extractions=lambda wildcards: STORE.extractions(wildcards, wildcards.layers),
        models=lambda wildcards: WATCH.backbone(wildcards.backbone),
    output:
        receipt=paths.RECEIPT,
    log:
        "logs/receipt/{dataset}/{backbone}/view{view}/{split}/{layers}.log",
    localrule: True
    conda:
        "../../envs/depalm.yaml"
    resources:
        runtime=60,
        mem_mb=8000,
    params:
        settings=lambda wildcards: STORE.receipt_settings(wildcards),
        how=lambda wildcards, threads: STORE.receipt_how(wildcards),
    script:
        "../scripts/receipt.py"


rule cache_size:
    input:
        manifests=lambda _: [manifest(cache["dataset"], cache["split"]) for cache in STORE.caches()],
    log:
        "logs/cache_size.log",
    localrule: True
    conda:
        "../../envs/depalm.yaml"
    resources:
        runtime=10,
        mem_mb=4000,
    params:
        caches=lambda _: STORE.caches(),
        format=CACHE.format,
    script:
        "../scripts/cache_size.py"
