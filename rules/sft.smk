# Supervised fine-tuning: the runs, and the models selected from their epochs.

from tir.config.synthesis import RUNS as COMPARED

# Run and epoch of each fine-tuned model. `full` is the main run; the others are pilots, and two for synthesis/.
SFT_MODELS = {
    "sft": ("full", "best"),
    **{f"sft-epoch{n}": ("full", n) for n in range(1, cfg.sft.epochs + 1)},
    **{f"sft-{run}": (run, "best") for run in [*cfg.sft_pilots, *COMPARED]},
}

SFT_OPERATIONAL = operational_params(sft=cfg.sft)


rule sft:
    """One run of supervised fine-tuning with LLaMA-Factory; saves one model per epoch."""
    input:
        image=image("sft"),
        base="models/base/manifest.json",
        data=lambda w: (
            f"synthesis/equal/{w.run}.json" if w.run in COMPARED else "data/sft.json"
        ),
    output:
        models=directory("runs/sft/{run}/models"),
        log="runs/sft/{run}/log.jsonl",
    log:
        "logs/sft/{run}.log",
    benchmark:
        "benchmarks/sft/{run}.tsv"
    wildcard_constraints:
        run="|".join(["full", *cfg.sft_pilots, *COMPARED]),
    container:
        container_of("sft")
    threads: 16
    resources:
        **gpus("sft"),
    params:
        code=code_digest("scripts.train_sft"),
        config=lambda w: params(
            sft=cfg.pilot(w.run),
            device=cfg.device,
            leading_space=cfg.tools.leading_space,
        ),
    shell:
        ON_GPUS
        + "{PYTHON[sft]} -m scripts.train_sft --base models/base --data {input.data} --run-dir runs/sft/{wildcards.run} "
        "--models-dir {output.models} --params {params.config:q} --operational {SFT_OPERATIONAL:q} "
        "--tracking {TRACKING:q} 2>&1 | tee {log}"


rule select_checkpoint:
    """Select an epoch of a run as a model: the one in the model's name, or that of the lowest evaluation loss."""
    input:
        models=lambda w: f"runs/sft/{SFT_MODELS[w.model][0]}/models",
        log=lambda w: f"runs/sft/{SFT_MODELS[w.model][0]}/log.jsonl",
    output:
        "models/{model}/manifest.json",
    log:
        "logs/select_checkpoint/{model}.log",
    wildcard_constraints:
        model="|".join(SFT_MODELS),
    params:
        code=code_digest("scripts.select_checkpoint"),
        epoch=lambda w: SFT_MODELS[w.model][1],
    shell:
        "{HOST} -m scripts.select_checkpoint --models {input.models} --log {input.log} --epoch {params.epoch} "
        "--output models/{wildcards.model} 2>&1 | tee {log}"
