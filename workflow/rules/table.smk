def table_spec(wildcards) -> dict:
    return next(table for table in config["tables"] if table["name"] == wildcards.table)


def table_scores(wildcards) -> list[str]:
    """The scores of the runs that the filters of a table let through."""
    table = table_spec(wildcards)
    filters = {axis: table[f"{axis}s"] for axis in RUN_AXES if table.get(f"{axis}s")}
    return [
        f"{run.path}/{test_split(run.dataset)}.scores.json"
        for run in CONFIG.runs()
        if all(getattr(run, axis) in names for axis, names in filters.items())
    ]


RUN_AXES = ("dataset", "fraction", "backbone", "llm", "method")


rule table:
    input:
        scores=table_scores,
    output:
        csv="results/tables/{table}.csv",
        md="results/tables/{table}.md",
        tex="results/tables/{table}.tex",
        html=report(
            "results/tables/{table}.html",
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
        table=table_spec,
    script:
        "../scripts/table.py"
