# What the judge says of trajectories. The cache is no output: it outlives results, and a rerun asks nothing twice.

JUDGE_ENDPOINT = SITE.judge_endpoint
JUDGE_OPERATION = operation(cfg.judge)
# A standing server has its weights where it is: what is known of it is the model's source.
JUDGE_STANDS = (
    JUDGE_ENDPOINT != "none" and cfg.judge.model in type(cfg.model).model_fields
)

JUDGED = {
    (model, each.benchmark)
    for each in cfg.judged()
    for model in cfg.model_ids(each.model)
}


def judgement(wildcards):
    """The verdicts a score file reads: none where the judge is not asked."""
    asked = (wildcards.model, wildcards.benchmark) in JUDGED and not wildcards.size
    return [f"judge/{wildcards.model}/{wildcards.benchmark}.jsonl"] if asked else []


rule judge:
    """Verdicts of the judge where rules do not settle an answer; its own server, or one that the site keeps."""
    input:
        image=image("eval"),
        words="tir/judge/calibration.yaml",
        model=[] if JUDGE_STANDS else f"models/{cfg.judge.model}/manifest.json",
        traces="traces/{model}/{benchmark}.jsonl",
    output:
        "judge/{model}/{benchmark}.jsonl",
        "judge/{model}/{benchmark}.jsonl.report.json",
    log:
        "logs/judge/{model}/{benchmark}.log",
    benchmark:
        "benchmarks/judge/{model}/{benchmark}.tsv"
    container:
        container_of("eval")
    params:
        code=code_digest("scripts.judge_traces"),
        config=lambda w: params(
            cfg.judge,
            task=cfg.benchmarks[w.benchmark].task,
            **(
                {"stands": getattr(cfg.model, cfg.judge.model)} if JUDGE_STANDS else {}
            ),
        ),
        model=f"models/{cfg.judge.model}",
    shell:
        "{PYTHON[rl]} -m scripts.judge_traces --traces {input.traces} --model {params.model} "
        "--endpoint {JUDGE_ENDPOINT:q} --cache cache/judge.sqlite --server-log {log}.server --output {output[0]} "
        "--params {params.config:q} --operation {JUDGE_OPERATION:q} 2>&1 | tee {log}"
