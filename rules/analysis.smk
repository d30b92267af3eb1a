# Tables and figures from raw records. A target's inputs, parameters and code follow from its name.

from tir.figures import module as figure_module
from tir.tables import module as table_module

# Figures that show the models of a table, and targets that read something else than scores.
SHOWS = {"figure1": "table1", "figure2": "table5", "figure6": "table12"}
POOLED = ["table3", "table4", "figure3"]
SFT_LOG = "runs/sft/full/log.jsonl"
TABLES = [*cfg.tables, "table2", "table3", "table4", "table7", "table13"]
FIGURES = ["figure1", "figure2", "figure3", "figure4", "figure6", "figure7", "figure8"]
COMPANIONS = {
    "table1": ["calls", "detail"],
    "table3": ["by_task", "tests"],
    "table12": ["comparisons", "detail"],
}


def companions(name):
    """Files a table writes beside itself, by suffix."""
    return COMPANIONS.get(
        name, ["comparisons", "detail", "variance"] if name in cfg.tables else []
    )


def shown_arms():
    """Arms whose training curves Figures 4 and 8 draw: those of Table 5, then Table 6."""
    rows = [
        row.model
        for name in ("table5", "table6")
        if name in cfg.tables
        for row in cfg.tables[name].rows
    ]
    return list(
        dict.fromkeys(model.partition("@")[0] for model in rows if "@" in model)
    )


def table_rows(name):
    """Rows of a table with the model ids behind them."""
    return [
        {
            key: value
            for key, value in row.model_dump().items()
            if value and key != "model"
        }
        | {"models": cfg.model_ids(row.model)}
        for row in cfg.tables[name].rows
    ]


def columns(name):
    chosen = cfg.tables[name].benchmarks or list(cfg.benchmarks)
    return [
        {
            "name": each,
            "label": cfg.benchmarks[each].label,
            "task": cfg.benchmarks[each].task,
        }
        | {"metric": cfg.benchmarks[each].metric}
        for each in chosen
    ]


def pooled_sets():
    return [
        {
            "model": model,
            "benchmark": each.benchmark,
            "task": cfg.benchmarks[each.benchmark].task,
            "n": each.n,
        }
        for each in cfg.trace_analysis
        for model in cfg.model_ids(each.model)
    ]


def records(kind, name):
    """Paths of score or trace records a target reads."""
    if name in POOLED:
        return [
            f"{kind}/{each['model']}/{each['benchmark']}.jsonl"
            for each in pooled_sets()
        ]
    table = SHOWS.get(name, name)
    if table not in cfg.tables:
        return []
    models = [model for row in table_rows(table) for model in row["models"]]
    names = [column["name"] for column in columns(table)]
    return list(
        dict.fromkeys(
            expand(f"{kind}/{{model}}/{{name}}.jsonl", model=models, name=names)
        )
    )


def needs_traces(name):
    return name in (*POOLED, "table1", "figure6")


def inputs_of(name):
    """A target's input files by kind, which are also the script's options."""
    found = {"scores": [] if name == "figure6" else records("scores", name)}
    found["traces"] = records("traces", name) if needs_traces(name) else []
    if name in ("figure4", "figure8"):
        found["metrics"] = expand(
            "runs/rl/{arm}/seed{seed}/metrics.jsonl",
            arm=shown_arms(),
            seed=cfg.rl.seeds,
        )
    found["logs"] = [SFT_LOG] if name in ("table13", "figure7") else []
    found["data"] = {"table2": ["data/sft.json"], "table7": code("aspo")}.get(name, [])
    return {kind: paths for kind, paths in found.items() if paths}


def params_of(name):
    if name in POOLED:
        return params(sets=pooled_sets(), statistics=cfg.statistics)
    table = SHOWS.get(name, name)
    if table in cfg.tables:
        return params(
            rows=table_rows(table), benchmarks=columns(table), statistics=cfg.statistics
        )
    if name == "table13":
        shown = {
            key: value
            for key, value in cfg.sft.model_dump().items()
            if key in ("epochs", "learning_rate", "schedule")
        }
        return params(
            run="full", configuration=shown, effective_batch=effective_batch()
        )
    return params(**({"arms": shown_arms()} if name in ("figure4", "figure8") else {}))


def effective_batch():
    return cfg.sft.per_device_batch * cfg.sft.accumulation * cfg.sft.gpus


def options_of(name):
    """The script's options: directories of records, and single files."""
    roots = {
        "scores": "scores",
        "traces": "traces",
        "metrics": "runs/rl",
        "logs": "runs/sft",
    }
    found = inputs_of(name)
    if name == "table7":
        found["data"] = ["aspo"]
    return " ".join(
        f"--{kind} {roots[kind] if kind in roots else ' '.join(paths)}"
        for kind, paths in found.items()
    )


for each in TABLES:

    rule:
        name:
            f"{each}"
        input:
            *sum(inputs_of(each).values(), []),
            image=image("analysis"),
            code=code("scripts.make_table", table_module(each)),
        output:
            f"results/{each}.csv",
            [f"results/{each}_{suffix}.csv" for suffix in companions(each)],
        log:
            f"logs/{each}.log",
        container:
            container_of("analysis")
        params:
            config=params_of(each),
            options=options_of(each),
            table=each,
        shell:
            "{PYTHON[workflow]} -m scripts.make_table --table {params.table} {params.options} "
            "--output {output[0]} --params {params.config:q} 2>&1 | tee {log}"


for each in FIGURES:

    rule:
        name:
            f"{each}"
        input:
            *sum(inputs_of(each).values(), []),
            image=image("analysis"),
            code=code("scripts.make_figure", figure_module(each)),
        output:
            f"results/{each}.png",
            f"results/{each}.svg",
        log:
            f"logs/{each}.log",
        container:
            container_of("analysis")
        params:
            config=params_of(each),
            options=options_of(each),
            figure=each,
        shell:
            "{PYTHON[workflow]} -m scripts.make_figure --figure {params.figure} {params.options} "
            "--output {output[0]} --params {params.config:q} 2>&1 | tee {log}"
