rule generate:
    input:
        manifest="results/{dataset}/manifest/{split}.parquet",
        shards=run_shards(None),
        media=run_media,
        backbone_directory=run_backbone,
        llm_directory=lambda wildcards: CONFIG.model_directory("llm", wildcards.llm),
        adapter=adapter_file("adapter.safetensors"),
        record=adapter_file("adapter.json"),
    output:
        predictions=f"{RUN}/{{split}}.predictions.jsonl",
        summary=f"{RUN}/{{split}}.generate.json",
        rejects=f"{RUN}/{{split}}.generate.rejects.parquet",
    log:
        "logs/generate/{dataset}/{fraction}/{backbone}+{llm}/{method}/seed{seed}/{split}.log",
    conda:
        "../../envs/depalm.yaml"
    threads: config["threads"]["generate"]
    resources:
        gpu=local_gpus,
        gres=cluster_gpus,
        workers=config["cache"]["workers"],
        runtime=480,
        mem_mb=32000,
    params:
        method=lambda wildcards: CONFIG.method(run_of(wildcards)),
        backbone=part("backbone"),
        llm=part("llm"),
        urls=run_shards(None, streamed=True),
        decoding=run_decoding,
        generate=CONFIG.settings["generate"],
        device=config["device"],
    script:
        "../scripts/generate.py"


rule score:
    input:
        manifest="results/{dataset}/manifest/{split}.parquet",
        predictions=rules.generate.output.predictions,
        generated=rules.generate.output.summary,
        adapter=adapter_file("adapter.safetensors"),
        record=adapter_file("adapter.json"),
    output:
        scores=report(
            f"{RUN}/{{split}}.scores.json",
            caption="../report/scores.rst",
            category="Runs",
            subcategory="{dataset}",
            labels={axis: f"{{{axis}}}" for axis in (*AXES[1:], "seed", "split")},
        ),
    log:
        "logs/score/{dataset}/{fraction}/{backbone}+{llm}/{method}/seed{seed}/{split}.log",
    conda:
        "../../envs/depalm.yaml"
    resources:
        runtime=60,
        mem_mb=8000,
    params:
        about=lambda wildcards: {
            **{axis: wildcards[axis] for axis in ("dataset", "split", "fraction", "backbone")},
            **{axis: wildcards[axis] for axis in ("llm", "method")},
            "label": CONFIG.part("method", wildcards.method)["label"],
            "seed": int(wildcards.seed),
        },
        metrics=lambda wildcards: CONFIG.part("dataset", wildcards.dataset)["metrics"],
    script:
        "../scripts/score.py"
