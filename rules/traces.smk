# What a model does on a benchmark, and what that is worth. `size` is empty, or `n500/` for the full test sets.


def needs_index(wildcards):
    task = cfg.benchmarks[wildcards.benchmark].task
    route = cfg.evaluation_tools.of(task)["routes"][task]
    return ["index/manifest.json"] if "search" in route else []


def needs_cassette(wildcards):
    return cfg.evaluation_tools.cassettes(cfg.benchmarks[wildcards.benchmark].task)


rule traces:
    """Trajectories of a model on a benchmark, with the same loop as in training; resumes inside the benchmark."""
    input:
        image=image("eval"),
        model="models/{model}/manifest.json",
        questions="data/benchmarks/{benchmark}.jsonl",
        prompt="data/system_prompt.txt",
        index=needs_index,
        cassette=needs_cassette,
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
        code=code_digest("scripts.generate_traces"),
        config=lambda w: params(
            cfg.evaluation,
            tools=cfg.evaluation_tools.of(cfg.benchmarks[w.benchmark].task),
            device=cfg.device,
            task=cfg.benchmarks[w.benchmark].task,
            n=cfg.full_size.n if w.size else cfg.benchmarks[w.benchmark].n,
        ),
    shell:
        "{PYTHON[rl]} -m scripts.generate_traces --model models/{wildcards.model} --items {input.questions} "
        "--system-prompt {input.prompt} --index index --endpoint {ENDPOINT:q} --helper-endpoint {HELPER_ENDPOINT:q} "
        "--output {output} "
        "--params {params.config:q} 2>&1 | tee {log}"


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
        code=code_digest("scripts.score_traces", "tir.answers.math_worker"),
        config=lambda w: params(
            task=cfg.benchmarks[w.benchmark].task,
            **({"judge_decides": cfg.judge.decides} if judgement(w) else {}),
        ),
        judge=lambda w: f"--judge {judgement(w)[0]} " if judgement(w) else "",
    shell:
        "{PYTHON[workflow]} -m scripts.score_traces --traces {input.traces} --output {output} {params.judge}"
        "--params {params.config:q} 2>&1 | tee {log}"
