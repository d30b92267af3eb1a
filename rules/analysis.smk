# Tables and figures from raw records.


def table_rows(name):
    """Rows of a table with the model ids behind them."""
    return [{"label": row.label, "models": cfg.model_ids(row.model)} for row in cfg.tables[name].rows]


def table_scores(wildcards):
    models = [model for row in table_rows(wildcards.table) for model in row["models"]]
    return expand("scores/{model}/{benchmark}.jsonl", model=models, benchmark=cfg.benchmarks)


def benchmark_columns():
    return [
        {"name": name, "label": item.label, "task": item.task, "metric": item.metric}
        for name, item in cfg.benchmarks.items()
    ]


rule table:
    """Accuracy of models on benchmarks (Tables 5 and 6), with intervals and paired comparisons."""
    input:
        image=image("analysis"),
        code=code("scripts.make_table"),
        scores=table_scores,
    output:
        "results/{table}.csv",
        "results/{table}_detail.csv",
        "results/{table}_comparisons.csv",
    params:
        config=lambda w: params(
            rows=table_rows(w.table), benchmarks=benchmark_columns(), statistics=cfg.statistics
        ),
    container:
        container_of("analysis")
    log:
        "logs/{table}.log",
    shell:
        "{PYTHON[workflow]} -m scripts.make_table --table {wildcards.table} --scores-dir scores "
        "--output results/{wildcards.table}.csv --params {params.config:q} 2>&1 | tee {log}"
