rule manifest:
    input:
        data=lambda wildcards: CONFIG.data_directory(wildcards.dataset),
    output:
        manifest="results/{dataset}/manifest/{split}.parquet",
        rejects="results/{dataset}/manifest/{split}.rejects.parquet",
    log:
        "logs/manifest/{dataset}/{split}.log",
    conda:
        "../../envs/depalm.yaml"
    resources:
        runtime=60,
        mem_mb=8000,
    params:
        dataset=lambda wildcards: {
            key: value
            for key, value in CONFIG.part("dataset", wildcards.dataset).items()
            if key in ("version", "reader", "splits", "templates", "media_root")
        },
        split="{split}",
        max_rows=lambda wildcards: config["data"]["max_rows"].get(wildcards.split),
        max_reject_fraction=lambda wildcards: CONFIG.max_reject_fraction(wildcards.dataset),
    script:
        "../scripts/manifest.py"


rule subset:
    input:
        manifest="results/{dataset}/manifest/train.parquet",
    output:
        ids="results/{dataset}/subsets/{fraction}/seed{seed}.txt",
    log:
        "logs/subset/{dataset}/{fraction}/seed{seed}.log",
    conda:
        "../../envs/depalm.yaml"
    resources:
        runtime=10,
        mem_mb=4000,
    params:
        fraction="{fraction}",
        seed=lambda wildcards: int(wildcards.seed),
    script:
        "../scripts/subset.py"
