# For looking at single trajectories; made only on request. tir/workflow/looking.py defines the inputs of each.

from tir.workflow import looking

target = looking.items(TARGETS)


rule items:
    """All trajectories as one table, a row each."""
    input:
        *target.files,
        image=image("analysis"),
    output:
        "results/items.parquet",
    log:
        "logs/items.log",
    container:
        container_of("analysis")
    params:
        code=code_digest("scripts.collect_items"),
        config=target.params,
        options=target.options,
    shell:
        "{PYTHON[workflow]} -m scripts.collect_items {params.options} --output {output} "
        "--params {params.config:q} 2>&1 | tee {log}"


def compared(wildcards):
    return looking.compared(TARGETS, wildcards.a, wildcards.b)


rule compare:
    """Two models item by item: which answers changed, with both trajectories, as one page."""
    input:
        lambda w: compared(w).files,
        image=image("analysis"),
        page=[f"tir/analysis/compare/{file}" for file in looking.PAGE],
    output:
        "results/compare/{a}_vs_{b}.html",
    log:
        "logs/compare/{a}_vs_{b}.log",
    wildcard_constraints:
        a=looking.expressions(cfg),
        b=looking.expressions(cfg),
    container:
        container_of("analysis")
    params:
        code=code_digest("scripts.compare_models"),
        config=lambda w: compared(w).params,
        options=lambda w: compared(w).options,
    shell:
        "{PYTHON[workflow]} -m scripts.compare_models {params.options} --output {output} "
        "--params {params.config:q} 2>&1 | tee {log}"


rule inspect_log:
    """An evaluation log of inspect_ai, for its viewer and its analysis; runs in an environment of its own."""
    input:
        traces="traces/{model}/{benchmark}.jsonl",
        scores="scores/{model}/{benchmark}.jsonl",
        prompt="data/system_prompt.txt",
    output:
        "results/inspect/{model}_{benchmark}.eval",
    log:
        "logs/inspect/{model}_{benchmark}.log",
    params:
        code=code_digest("scripts.write_inspect_log"),
        config=lambda w: looking.exported(TARGETS, w.benchmark),
    shell:
        "test -x {PYTHON[inspect]} || {{ echo 'no {PYTHON[inspect]}.  try: make inspect' >&2; exit 1; }}; "
        "{PYTHON[inspect]} -m scripts.write_inspect_log --traces {input.traces} --scores {input.scores} "
        "--system-prompt {input.prompt} --output {output} --params {params.config:q} 2>&1 | tee {log}"
