# Reinforcement learning with verl: one run per arm and seed. Arms differ only in the advantage.

from tir.config.arms import coefficients

STEPS = range(cfg.rl.save_every, cfg.rl.steps + 1, cfg.rl.save_every)
RL_TASKS = ("math", "qa")
RL_OPERATIONAL = operational_params(tools=cfg.tools, rl=cfg.rl)
RL_INDEX = "index" if routes.asks_retrieval(cfg.tools, *RL_TASKS) else "none"


def rl_modules(wildcards):
    shaping = (
        ["aspo.integration"] if cfg.arms[wildcards.arm].estimator == "aspo" else []
    )
    return [*shaping, *routes.modules(cfg.tools, *RL_TASKS)]


def rl_code(wildcards):
    return code_digest("scripts.train_rl", *rl_modules(wildcards))


def rl_params(wildcards, rl=cfg.rl):
    arm = cfg.arms[wildcards.arm]
    return params(
        # Without `seeds`: adding a seed must not rerun the others.
        rl=without(rl, "seeds"),
        tools=routes.settings(cfg.tools, *RL_TASKS),
        device=cfg.device,
        estimator=arm.estimator,
        # Only aspo reads the coefficients; an edit must not rerun the other estimators.
        coefficients=coefficients(arm) if arm.estimator == "aspo" else {},
    )


rule rl:
    """Train one arm with one seed in verl; the rollouts call the real tools."""
    input:
        image=image("rl"),
        model="models/sft/manifest.json",
        train="data/rl_train.parquet",
        validation="data/validation.parquet",
        prompt="data/system_prompt.txt",
        tools=routes.files(cfg.tools, *RL_TASKS),
    output:
        metrics="runs/rl/{arm}/seed{seed}/metrics.jsonl",
        models=expand(
            "models/{{arm}}-step{step}-seed{{seed}}/manifest.json", step=STEPS
        ),
    log:
        "logs/rl/{arm}-seed{seed}.log",
    benchmark:
        "benchmarks/rl/{arm}-seed{seed}.tsv"
    container:
        container_of("rl")
    threads: 16
    resources:
        **gpus("rl"),
    params:
        code=rl_code,
        config=rl_params,
    shell:
        ON_GPUS
        + "{PYTHON[rl]} -m scripts.train_rl --model models/sft --train {input.train} --validation {input.validation} "
        "--system-prompt {input.prompt} --index {RL_INDEX} --retrieval {RETRIEVAL:q} --run-dir runs/rl/{wildcards.arm}/seed{wildcards.seed} "
        "--models-dir models --arm {wildcards.arm} --seed {wildcards.seed} "
        "--params {params.config:q} --operational {RL_OPERATIONAL:q} "
        "--tracking {TRACKING:q} 2>&1 | tee {log}"
