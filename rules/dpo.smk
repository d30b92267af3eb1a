# Self-critic DPO of a policy: trajectories of RL prompts, preference pairs of them, training (docs/dpo.md). `trained` is
# the id of the model that comes out, `grpo-step15-dpo1-seed1`; the policy that goes in has the same id without `-dpo1`.
# RL may go on from there.

import re

DPO_MODEL = r"[A-Za-z][\w.]*-step\d+-dpo\d+-seed\d+"
DPO_OPERATIONAL = operational_params(dpo=cfg.dpo)
SAMPLES_OPERATIONAL = operational_params(evaluation=cfg.evaluation, tools=cfg.tools)


def policy(wildcards):
    return re.sub(r"-dpo\d+", "", wildcards.trained)


def seed_of(wildcards):
    return int(wildcards.trained.rpartition("-seed")[2])


rule dpo_prompts:
    """Questions of the first RL rows, one file per task."""
    input:
        "data/rl_train.parquet",
    output:
        expand("data/dpo/{task}.jsonl", task=RL_TASKS),
    log:
        "logs/dpo_prompts.log",
    params:
        code=code_digest("scripts.make_dpo_prompts"),
        config=params(rows=cfg.dpo.pairs.rows),
    shell:
        "{HOST} -m scripts.make_dpo_prompts --rows {input} --output-dir data/dpo "
        "--params {params.config:q} 2>&1 | tee {log}"


rule dpo_samples:
    """Trajectories of a policy on the prompts of a task: the evaluation's loop, sampled as in RL; a job resumes."""
    input:
        image=image("eval"),
        model=lambda w: f"models/{policy(w)}/manifest.json",
        questions="data/dpo/{task}.jsonl",
        prompt="data/system_prompt.txt",
        tools=lambda w: routes.files(cfg.tools, w.task),
    output:
        "runs/dpo/{trained}/samples/{task}.jsonl",
    log:
        "logs/dpo_samples/{trained}/{task}.log",
    benchmark:
        "benchmarks/dpo_samples/{trained}/{task}.tsv"
    wildcard_constraints:
        trained=DPO_MODEL,
        task="|".join(RL_TASKS),
    container:
        container_of("eval")
    threads: 1
    resources:
        **gpus("dpo_samples"),
    params:
        code=lambda w: code_digest(
            "scripts.generate_traces", *routes.modules(cfg.tools, w.task)
        ),
        config=lambda w: params(
            evaluation=without(cfg.dpo_sampling(seed_of(w)), "golds", "tools"),
            tools=routes.settings(cfg.tools, w.task),
            device=cfg.device,
            task=w.task,
            n=cfg.dpo.pairs.rows,
            helper_models={},
        ),
        policy=policy,
    shell:
        ON_GPUS
        + "{PYTHON[rl]} -m scripts.generate_traces --model models/{params.policy} --items {input.questions} "
        "--system-prompt {input.prompt} --index index --retrieval {RETRIEVAL:q} --output {output} "
        "--params {params.config:q} --operational {SAMPLES_OPERATIONAL:q} 2>&1 | tee {log}"


rule dpo_pairs:
    """Pairs of a chosen and a rejected trajectory, and a report of how many there are and how they differ."""
    input:
        image=image("eval"),
        model=lambda w: f"models/{policy(w)}/manifest.json",
        samples=expand("runs/dpo/{{trained}}/samples/{task}.jsonl", task=RL_TASKS),
        prompt="data/system_prompt.txt",
    output:
        "runs/dpo/{trained}/pairs.jsonl",
        "runs/dpo/{trained}/pairs.report.json",
        "runs/dpo/{trained}/pairs.csv",
        "runs/dpo/{trained}/pairs.md",
    log:
        "logs/dpo_pairs/{trained}.log",
    wildcard_constraints:
        trained=DPO_MODEL,
    container:
        container_of("eval")
    params:
        code=code_digest("scripts.make_pairs"),
        # The number of rows is a parameter of `dpo_prompts`, that of trajectories one of `dpo_samples`.
        config=params(
            pairs=without(cfg.dpo.pairs, "rows", "samples"), reward=cfg.rl.reward
        ),
        policy=policy,
    shell:
        "{PYTHON[rl]} -m scripts.make_pairs --model models/{params.policy} --samples {input.samples} "
        "--system-prompt {input.prompt} --output {output[0]} --params {params.config:q} 2>&1 | tee {log}"


rule dpo:
    """Train a policy on its pairs with LLaMA-Factory; an interrupted job resumes."""
    input:
        image=image("sft"),
        model=lambda w: f"models/{policy(w)}/manifest.json",
        pairs="runs/dpo/{trained}/pairs.jsonl",
    output:
        model="models/{trained}/manifest.json",
        log="runs/dpo/{trained}/training/log.jsonl",
    log:
        "logs/dpo/{trained}.log",
    benchmark:
        "benchmarks/dpo/{trained}.tsv"
    wildcard_constraints:
        trained=DPO_MODEL,
    container:
        container_of("sft")
    threads: 16
    resources:
        **gpus("dpo"),
    params:
        code=code_digest("scripts.train_dpo"),
        config=params(dpo=without(cfg.dpo, "pairs"), device=cfg.device),
        policy=policy,
        seed=seed_of,
    shell:
        ON_GPUS
        + "{PYTHON[sft]} -m scripts.train_dpo --policy models/{params.policy} --pairs {input.pairs} "
        "--run-dir runs/dpo/{wildcards.trained}/training --output models/{wildcards.trained} --seed {params.seed} "
        "--params {params.config:q} --operational {DPO_OPERATIONAL:q} --tracking {TRACKING:q} 2>&1 | tee {log}"


def part_seed(wildcards):
    """Seed of a part of RL: another one than that of the parts before, so that its prompts come in another order."""
    start = cfg.part_before(wildcards.arm, int(wildcards.step))
    return int(wildcards.seed) + 1000 * start


def part_start(wildcards):
    """Model id of the policy that a part of RL starts from."""
    start = cfg.part_before(wildcards.arm, int(wildcards.step))
    return cfg.policy(wildcards.arm, start, int(wildcards.seed))


rule rl_after_dpo:
    """Go on with an arm's RL from its policy after DPO, up to the next one."""
    input:
        image=image("rl"),
        model=lambda w: f"models/{part_start(w)}/manifest.json",
        train="data/rl_train.parquet",
        validation="data/validation.parquet",
        prompt="data/system_prompt.txt",
        tools=routes.files(cfg.tools, *RL_TASKS),
    output:
        metrics="runs/rl/{arm}/seed{seed}/to{step}/metrics.jsonl",
        model="models/{arm}-step{step}-seed{seed}/manifest.json",
    log:
        "logs/rl_after_dpo/{arm}-step{step}-seed{seed}.log",
    benchmark:
        "benchmarks/rl_after_dpo/{arm}-step{step}-seed{seed}.tsv"
    wildcard_constraints:
        arm="|".join(cfg.interleaved_arms).replace(".", r"\.") or "-",
        step=r"\d+",
    container:
        container_of("rl")
    threads: 16
    resources:
        **gpus("rl_after_dpo"),
    params:
        code=lambda w: code_digest(
            "scripts.name_policy", *rl_modules(w), "scripts.train_rl"
        ),
        config=lambda w: rl_params(w, cfg.part(w.arm, int(w.step))),
        policy=part_start,
        seed=part_seed,
        steps=lambda w: cfg.part(w.arm, int(w.step)).steps,
    shell:
        ON_GPUS
        + "{PYTHON[rl]} -m scripts.train_rl --model models/{params.policy} --train {input.train} "
        "--validation {input.validation} --system-prompt {input.prompt} --index {RL_INDEX} --retrieval {RETRIEVAL:q} "
        "--run-dir runs/rl/{wildcards.arm}/seed{wildcards.seed}/to{wildcards.step} "
        "--models-dir runs/rl/{wildcards.arm}/seed{wildcards.seed}/models --arm {wildcards.arm} --seed {params.seed} "
        "--params {params.config:q} --operational {RL_OPERATIONAL:q} --tracking {TRACKING:q} "
        "--run-name {wildcards.arm}-step{wildcards.step}-seed{wildcards.seed} 2>&1 | tee {log} && "
        "{PYTHON[rl]} -m scripts.name_policy --policy models/{params.policy} "
        "--made runs/rl/{wildcards.arm}/seed{wildcards.seed}/models/{wildcards.arm}-step{params.steps}-seed{params.seed} "
        "--output models/{wildcards.arm}-step{wildcards.step}-seed{wildcards.seed} --arm {wildcards.arm} "
        "--step {wildcards.step} --seed {wildcards.seed} 2>&1 | tee -a {log}"
