# Verdicts of the judge. The cache of verdicts is not an output, so Snakemake keeps it and a rerun repeats no request.

from tir.config.profile import require_judge_gpus
from tir.workflow.engine import gpus_of_profile

JUDGE_ENDPOINT = SITE.judge_endpoint
JUDGE_OPERATIONAL = operational_params(judge=cfg.judge)
# With a judge server that already runs, no weights are fetched; the model's source is then a parameter of the rule.
JUDGE_STANDS = JUDGE_ENDPOINT != "none" and cfg.judge.model in cfg.models


def judge_model(wildcards):
    """The judge's weights. They are asked for only if a target needs verdicts, as are the GPUs of its server."""
    if JUDGE_ENDPOINT == "none" and cfg.device == "cuda":
        require_judge_gpus(cfg.judge, gpus_of_profile(workflow), GPUS)
    return [] if JUDGE_STANDS else f"models/{cfg.judge.model}/manifest.json"


rule judge:
    """Judge the answers that rules cannot decide; the job starts a server unless `site.judge_endpoint` names one."""
    input:
        image=image("eval"),
        words="tir/scoring/judge/calibration.yaml",
        model=judge_model,
        traces="{size}traces/{model}/{benchmark}.jsonl",
    output:
        "{size}judge/{model}/{benchmark}.jsonl",
        "{size}judge/{model}/{benchmark}.jsonl.report.json",
    log:
        "logs/{size}judge/{model}/{benchmark}.log",
    benchmark:
        "benchmarks/{size}judge/{model}/{benchmark}.tsv"
    container:
        container_of("eval")
    resources:
        **gpus("judge"),
    params:
        code=code_digest("scripts.judge_traces"),
        config=lambda w: params(
            # `decides` is a parameter of the tables, not of this rule.
            judge=without(cfg.judge, "decides"),
            task=cfg.benchmarks[w.benchmark].task,
            stands=cfg.models[cfg.judge.model] if JUDGE_STANDS else None,
        ),
        model=f"models/{cfg.judge.model}",
    shell:
        ON_GPUS
        + "{PYTHON[rl]} -m scripts.judge_traces --traces {input.traces} --model {params.model} "
        "--endpoint {JUDGE_ENDPOINT:q} --cache cache/judge.sqlite --server-log {log}.server --output {output[0]} "
        "--params {params.config:q} --operational {JUDGE_OPERATIONAL:q} 2>&1 | tee {log}"
