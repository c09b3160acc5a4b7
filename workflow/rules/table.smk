rule table:
    input:
        scores=lambda wildcards: scores(CONFIG.table_runs(CONFIG.table(wildcards.table))),
        published=lambda wildcards: CONFIG.published(wildcards.table),
    output:
        csv=report(
            f"{paths.TABLE}.csv",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}", "format": "CSV"},
        ),
        md=f"{paths.TABLE}.md",
        tex=f"{paths.TABLE}.tex",
        html=report(
            f"{paths.TABLE}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}", "format": "page"},
        ),
    log:
        "logs/table/{table}.log",
    conda:
        "../../envs/depalm.yaml"
    resources:
        runtime=10,
        mem_mb=2000,
    params:
        table=lambda wildcards: CONFIG.table(wildcards.table).given(),
    script:
        "../scripts/table.py"
