rule manifest:
    input:
        state=lambda wildcards: WATCH.data(wildcards.dataset, wildcards.split),
        fetched=lambda wildcards: fetched(*PARTS.data_folders(wildcards.dataset).values()),
    output:
        manifest=paths.MANIFEST,
        rejects=paths.MANIFEST.replace(".parquet", ".rejects.parquet"),
    log:
        "logs/manifest/{dataset}/{split}.log",
    localrule: True
    conda:
        "../../envs/depalm.yaml"
    resources:
        runtime=60,
        mem_mb=8000,
    params:
        settings=lambda wildcards: CONFIG.manifest_settings(wildcards.dataset, wildcards.split),
        # with `threads` it counts as derived: what it says is no reason to run again
        how=lambda wildcards, threads: CONFIG.manifest_how(wildcards.dataset, wildcards.split),
    script:
        "../scripts/manifest.py"


rule subset:
    input:
        manifest=paths.MANIFEST.replace("{split}", "train"),
    output:
        ids=paths.SUBSET,
    log:
        "logs/subset/{dataset}/{fraction}/seed{seed}.log",
    localrule: True
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
