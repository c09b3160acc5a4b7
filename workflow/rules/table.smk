rule table:
    input:
        scores=lambda wildcards: scores(CONFIG.table_runs(CONFIG.table(wildcards.table))),
        samples=lambda wildcards: sample_scores(CONFIG.table_runs(CONFIG.table(wildcards.table))),
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
        pairs=f"{paths.TABLE}.pairs.csv",
    log:
        "logs/table/{table}.log",
    localrule: True
    conda:
        "../../envs/depalm.yaml"
    resources:
        runtime=10,
        mem_mb=2000,
    params:
        table=lambda wildcards: CONFIG.table(wildcards.table).given(),
    script:
        "../scripts/table.py"


rule report:
    input:
        tables=[f"{paths.TABLE}.csv".format(table=table.name) for table in SETTINGS.tables],
        scores=lambda _: scores(CONFIG.runs),
        samples=lambda _: sample_scores(CONFIG.runs),
    output:
        html=paths.REPORT,
        shown=directory(paths.SHOWN),
    log:
        "logs/report.log",
    localrule: True
    conda:
        "../../envs/depalm.yaml"
    resources:
        runtime=30,
        mem_mb=4000,
    params:
        parts=lambda _: [
            CONFIG.report_part(table, scores(CONFIG.table_runs(table))).given()
            for table in SETTINGS.tables
        ],
        media=lambda _: CONFIG.report_media(),
    script:
        "../scripts/report.py"
