rule fetch:
    output:
        directory=directory(paths.DOWNLOAD),
        record=paths.DOWNLOAD_RECORD,
    log:
        "logs/fetch/{kind}/{part}.log",
    localrule: True  # on a cluster the nodes that compute may have no network
    conda:
        "../../envs/depalm.yaml"
    resources:
        runtime=240,
        mem_mb=4000,
    params:
        source=lambda wildcards: part_of_kind(wildcards).given()["source"],
        version=lambda wildcards: part_of_kind(wildcards).version,
        # derived from an output, so no reason to fetch again
        downloads=lambda wildcards, output: f"{Path(output.directory).parents[1]}/.cache",
    script:
        "../scripts/fetch.py"


rule convert:
    input:
        fetched=lambda wildcards: fetched(paths.DOWNLOAD.format(**wildcards)),
    output:
        directory=directory(paths.MODEL),
        record=paths.MODEL_RECORD,
    log:
        "logs/convert/{kind}/{part}.log",
    conda:
        "../../envs/depalm.yaml"
    resources:
        runtime=60,
        mem_mb=8000,
    params:
        convert=lambda wildcards: part_of_kind(wildcards).convert,
        download=lambda wildcards: paths.DOWNLOAD.format(**wildcards),
    script:
        "../scripts/convert.py"
