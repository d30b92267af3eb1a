# Trajectories of models on benchmarks, and their scores. `size` is empty, `n500/` for the full test sets, `sampled/` for
# the trace analysis, which samples at temperature 1, or both.

from functools import cache

ROLLOUT_OPERATIONAL = operational_params(
    evaluation=cfg.evaluation, tools=cfg.evaluation_tools
)


# The models that helpers query: those that a job serves itself, and the sources of those on the site's server.
try:
    OWN_HELPERS, STANDING_HELPERS = cfg.helper_models(HELPER_ENDPOINT)
except ConfigError as error:
    raise WorkflowError(str(error))


@cache
def rollout_settings(benchmark, size):
    """Parameters of a rollout, the same for all models; cached, because a plan may have thousands of jobs."""
    task = cfg.benchmarks[benchmark].task
    return params(
        # `golds` is a parameter of `scores`; the tools are in the next line.
        evaluation=without(cfg.decoding(sampled="sampled/" in size), "golds", "tools"),
        tools=routes.settings(cfg.evaluation_tools, task),
        device=cfg.device,
        task=task,
        n=cfg.items(benchmark, full=size.startswith("n")),
        helper_models=STANDING_HELPERS,
    )


@cache
def rollout_files(task):
    """Files that the tools of a task read."""
    return routes.files(cfg.evaluation_tools, task)


@cache
def rollout_code(task):
    """Digest of the loop and of the task's tools; edited code of another tool reruns nothing."""
    helpers = ["tir.rollout.helpers.server"] if OWN_HELPERS else []
    return code_digest(
        "scripts.generate_traces",
        *routes.modules(cfg.evaluation_tools, task),
        *helpers,
    )


rule traces:
    """Trajectories of a model on a benchmark, with the same loop as in training; an interrupted job resumes."""
    input:
        image=image("eval"),
        model="models/{model}/manifest.json",
        questions="data/benchmarks/{benchmark}.jsonl",
        prompt="data/system_prompt.txt",
        tools=lambda w: rollout_files(cfg.benchmarks[w.benchmark].task),
        helpers=[f"models/{name}/manifest.json" for name in OWN_HELPERS],
    output:
        "{size}traces/{model}/{benchmark}.jsonl",
    log:
        "logs/{size}traces/{model}/{benchmark}.log",
    benchmark:
        "benchmarks/{size}traces/{model}/{benchmark}.tsv"
    container:
        container_of("eval")
    threads: 1
    resources:
        **gpus("traces"),
    params:
        code=lambda w: rollout_code(cfg.benchmarks[w.benchmark].task),
        config=lambda w: rollout_settings(w.benchmark, w.size),
    shell:
        ON_GPUS
        + "{PYTHON[rl]} -m scripts.generate_traces --model models/{wildcards.model} --items {input.questions} "
        "--system-prompt {input.prompt} --index index --retrieval {RETRIEVAL:q} --helper-endpoint {HELPER_ENDPOINT:q} "
        "--output {output} "
        "--params {params.config:q} --operational {ROLLOUT_OPERATIONAL:q} 2>&1 | tee {log}"


rule scores:
    """Score each trajectory by every metric of its task. Tables that read the judge's verdicts add them to the scores."""
    input:
        image=image("analysis"),
        traces="{size}traces/{model}/{benchmark}.jsonl",
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
        ),
    shell:
        "{PYTHON[workflow]} -m scripts.score_traces --traces {input.traces} --output {output} "
        "--params {params.config:q} 2>&1 | tee {log}"
