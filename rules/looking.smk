# For looking at single trajectories. tir/workflow/looking.py defines the inputs of each, and which are made by default.

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
        report(
            "results/compare/{a}_vs_{b}.html",
            category="Comparisons",
            caption=caption("compare"),
            labels={"compared": "{a} against {b}"},
        ),
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


# Run before a command in the environment of inspect_ai, which only `make inspect` installs.
INSPECT = "test -x {PYTHON[inspect]} || {{ echo 'no {PYTHON[inspect]}.  try: make inspect' >&2; exit 1; }}; "


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
        INSPECT
        + "{PYTHON[inspect]} -m scripts.write_inspect_log --traces {input.traces} --scores {input.scores} "
        "--system-prompt {input.prompt} --output {output} --params {params.config:q} 2>&1 | tee {log}"


def rollouts_of(wildcards):
    """Folder of the run with a step of an arm's reinforcement learning, and the number of the step there."""
    return looking.rollouts(cfg, wildcards.arm, int(wildcards.step), wildcards.seed)


rule inspect_rollouts:
    """An evaluation log of inspect_ai with the trajectories of a step of reinforcement learning and their rewards."""
    input:
        metrics=lambda w: f"{rollouts_of(w)[0]}/metrics.jsonl",
        prompt="data/system_prompt.txt",
    output:
        "results/inspect/rl/{arm}-step{step}-seed{seed}_{kind}.eval",
    log:
        "logs/inspect/rl/{arm}-step{step}-seed{seed}_{kind}.log",
    wildcard_constraints:
        arm="|".join(map(re.escape, [*cfg.plain_arms, *cfg.interleaved_arms])),
        step=r"\d+",
        kind="train|val",
    params:
        code=code_digest("scripts.write_inspect_log"),
        config=lambda w: looking.exported_rollouts(TARGETS, w.kind),
        run=rollouts_of,
    shell:
        INSPECT
        + "{PYTHON[inspect]} -m scripts.write_inspect_log --run {params.run[0]} --kind {wildcards.kind} "
        "--step {params.run[1]} --system-prompt {input.prompt} --output {output} "
        "--params {params.config:q} 2>&1 | tee {log}"


rule lm_eval:
    """Trajectories and scores of a model on the standard benchmarks, in the format of lm-evaluation-harness."""
    input:
        unpack(lambda w: looking.benchmark_records(cfg, w.model)),
        image=image("analysis"),
        prompt="data/system_prompt.txt",
    output:
        directory("results/lm_eval/{model}"),
    log:
        "logs/lm_eval/{model}.log",
    container:
        container_of("analysis")
    params:
        code=code_digest("scripts.write_lm_eval"),
        config=looking.described(TARGETS),
    shell:
        "{PYTHON[workflow]} -m scripts.write_lm_eval --traces {input.traces} --scores {input.scores} "
        "--system-prompt {input.prompt} --output {output} --params {params.config:q} 2>&1 | tee {log}"
