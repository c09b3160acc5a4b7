rule table:
    input:
        scores=table_scores,
        published=table_published,
    output:
        csv=report(
            "results/tables/{table}.csv",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}", "format": "CSV"},
        ),
        md="results/tables/{table}.md",
        tex="results/tables/{table}.tex",
        html=report(
            "results/tables/{table}.html",
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
        table=table_spec,
    script:
        "../scripts/table.py"
