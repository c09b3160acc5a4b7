rule manifest:
    input:
        data=lambda wildcards: PARTS.directory("dataset", wildcards.dataset),
    output:
        manifest=paths.MANIFEST,
        rejects=paths.MANIFEST.replace(".parquet", ".rejects.parquet"),
    log:
        "logs/manifest/{dataset}/{split}.log",
    conda:
        "../../envs/depalm.yaml"
    resources:
        runtime=60,
        mem_mb=8000,
    params:
        dataset=lambda wildcards: PARTS.dataset(wildcards.dataset).rows().given(),
        split="{split}",
        max_rows=lambda wildcards: getattr(SETTINGS.data.max_rows, wildcards.split),
        max_reject_fraction=lambda wildcards: CONFIG.max_reject_fraction(wildcards.dataset),
    script:
        "../scripts/manifest.py"


rule subset:
    input:
        manifest=paths.MANIFEST.replace("{split}", "train"),
    output:
        ids=paths.SUBSET,
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
