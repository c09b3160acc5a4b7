rule table:
    input:
        scores=lambda wildcards: scores(CONFIG.table_runs(CONFIG.table(wildcards.table))),
        published=lambda wildcards: CONFIG.published(wildcards.table, workflow.basedir),
    output:
        csv=f"{paths.TABLE}.csv",
        md=f"{paths.TABLE}.md",
        tex=f"{paths.TABLE}.tex",
        html=report(
            f"{paths.TABLE}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
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
