# What a model does on a benchmark, and what that is worth. `size` is empty, or `n500/` for the full test sets.

from functools import cache

ROLLOUT_OPERATION = operation(cfg.evaluation, tools=cfg.evaluation_tools)


@cache
def rollout_settings(benchmark, size):
    """Parameters of a rollout; all models' are the same, and a plan may have thousands of them."""
    task = cfg.benchmarks[benchmark].task
    return params(
        cfg.evaluation,
        tools=cfg.evaluation_tools.of(task),
        device=cfg.device,
        task=task,
        n=cfg.full_size.n if size else cfg.benchmarks[benchmark].n,
    )


def rollout_code(task):
    """The loop, and the tools of the task's route: another tool's code makes no trajectory again."""
    return code_digest("scripts.generate_traces", *cfg.evaluation_tools.modules(task))


rule traces:
    """Trajectories of a model on a benchmark, with the same loop as in training; resumes inside the benchmark."""
    input:
        image=image("eval"),
        model="models/{model}/manifest.json",
        questions="data/benchmarks/{benchmark}.jsonl",
        prompt="data/system_prompt.txt",
        tools=lambda w: cfg.evaluation_tools.files(cfg.benchmarks[w.benchmark].task),
    output:
        "{size}traces/{model}/{benchmark}.jsonl",
    log:
        "logs/{size}traces/{model}/{benchmark}.log",
    benchmark:
        "benchmarks/{size}traces/{model}/{benchmark}.tsv"
    container:
        container_of("eval")
    threads: 1
    params:
        code=lambda w: rollout_code(cfg.benchmarks[w.benchmark].task),
        config=lambda w: rollout_settings(w.benchmark, w.size),
    shell:
        "{PYTHON[rl]} -m scripts.generate_traces --model models/{wildcards.model} --items {input.questions} "
        "--system-prompt {input.prompt} --index index --endpoint {ENDPOINT:q} --helper-endpoint {HELPER_ENDPOINT:q} "
        "--output {output} "
        "--params {params.config:q} --operation {ROLLOUT_OPERATION:q} 2>&1 | tee {log}"


rule scores:
    """Each trajectory scored by every metric of its task."""
    input:
        image=image("analysis"),
        traces="{size}traces/{model}/{benchmark}.jsonl",
        judge=judgement,
    output:
        "{size}scores/{model}/{benchmark}.jsonl",
    log:
        "logs/{size}scores/{model}/{benchmark}.log",
    container:
        container_of("analysis")
    params:
        code=code_digest("scripts.score_traces"),
        config=lambda w: params(
            task=cfg.benchmarks[w.benchmark].task,
            golds=cfg.evaluation.golds,
            **({"judge_decides": cfg.judge.decides} if judgement(w) else {}),
        ),
    shell:
        "{PYTHON[workflow]} -m scripts.score_traces --traces {input.traces} --judge {input.judge} --output {output} "
        "--params {params.config:q} 2>&1 | tee {log}"
