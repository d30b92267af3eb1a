# Reinforcement learning with verl: one run per arm and seed. Arms differ in nothing but the advantage.

STEPS = range(cfg.rl.save_every, cfg.rl.steps + 1, cfg.rl.save_every)
RL_TASKS = ("math", "qa")
RL_OPERATION = operation(tools=cfg.tools)
RL_INDEX = "index" if cfg.tools.ask_retrieval(*RL_TASKS) else "none"


def rl_code(wildcards):
    shaping = (
        ["aspo.integration"] if cfg.arms[wildcards.arm].estimator == "aspo" else []
    )
    return code_digest("scripts.train_rl", *shaping, *cfg.tools.modules(*RL_TASKS))


rule rl:
    """verl's trainer, with the tools called for real inside the rollout."""
    input:
        image=image("rl"),
        model="models/sft/manifest.json",
        train="data/rl_train.parquet",
        validation="data/validation.parquet",
        prompt="data/system_prompt.txt",
        tools=cfg.tools.files(*RL_TASKS),
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
    params:
        code=rl_code,
        config=params(
            # The study's list of seeds is no run's: a seed more makes no run again.
            cfg.rl.model_dump(mode="json", exclude={"seeds"}),
            tools=cfg.tools.of(*RL_TASKS),
            device=cfg.device,
        ),
        arm=lambda w: params(
            estimator=cfg.arms[w.arm].estimator,
            coefficients=cfg.arms[w.arm].coefficients(),
        ),
    shell:
        "{PYTHON[rl]} -m scripts.train_rl --model models/sft --train {input.train} --validation {input.validation} "
        "--system-prompt {input.prompt} --index {RL_INDEX} --endpoint {ENDPOINT:q} --run-dir runs/rl/{wildcards.arm}/seed{wildcards.seed} "
        "--models-dir models --arm {wildcards.arm} --seed {wildcards.seed} --coefficients {params.arm:q} "
        "--params {params.config:q} --operation {RL_OPERATION:q} 2>&1 | tee {log}"
