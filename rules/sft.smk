# Models before RL: the base, the published checkpoint, and our own fine-tuning, one model per epoch.

EPOCHS = range(1, cfg.sft.epochs + 1)


if cfg.model.base.kind == "world":

    rule tiny_model:
        """A tiny tokenizer and model of the base model's architecture."""
        input:
            image=image("eval"),
            corpus="data/world/corpus.jsonl",
            sft="data/sft.json",
        output:
            "models/base/manifest.json",
        log:
            "logs/tiny_model.log",
        benchmark:
            "benchmarks/tiny_model.tsv"
        container:
            container_of("eval")
        params:
            code=code_digest("scripts.make_tiny_model"),
            config=params(cfg.tiny_model.stated()),
        shell:
            "{PYTHON[rl]} -m scripts.make_tiny_model --corpus {input.corpus} --sft {input.sft} "
            "--output models/base --params {params.config:q} 2>&1 | tee {log}"


rule fetch_model:
    """A model that others trained."""
    input:
        lambda w: getattr(cfg.model, w.model).local_files(),
    output:
        "models/{model}/manifest.json",
    log:
        "logs/fetch_model/{model}.log",
    wildcard_constraints:
        model=(
            "published|judge"
            if cfg.model.base.kind == "world"
            else "base|published|judge"
        ),
    params:
        code=code_digest("scripts.fetch_model"),
        source=lambda w: params(getattr(cfg.model, w.model)),
    shell:
        "{HOST} -m scripts.fetch_model --name {wildcards.model} --output models/{wildcards.model} "
        "--params {params.source:q} 2>&1 | tee {log}"


rule sft:
    """Supervised fine-tuning with LLaMA-Factory; a model per epoch."""
    input:
        image=image("sft"),
        base="models/base/manifest.json",
        data="data/sft.json",
    output:
        models=expand("models/sft-epoch{epoch}/manifest.json", epoch=EPOCHS),
        log="runs/sft/full/log.jsonl",
    log:
        "logs/sft.log",
    benchmark:
        "benchmarks/sft.tsv"
    container:
        container_of("sft")
    threads: 16
    params:
        code=code_digest("scripts.train_sft"),
        config=params(cfg.sft, device=cfg.device, leading_space=cfg.tools.leading_space),
    shell:
        "{PYTHON[sft]} -m scripts.train_sft --base models/base --data {input.data} --run-dir runs/sft/full "
        "--models-dir models --params {params.config:q} 2>&1 | tee {log}"


rule select_checkpoint:
    """The epoch with the lowest evaluation loss becomes `sft`."""
    input:
        models=rules.sft.output.models,
        log="runs/sft/full/log.jsonl",
    output:
        "models/sft/manifest.json",
    log:
        "logs/select_checkpoint.log",
    params:
        code=code_digest("scripts.select_checkpoint"),
    shell:
        "{HOST} -m scripts.select_checkpoint --log {input.log} --models {input.models} "
        "--output models/sft 2>&1 | tee {log}"


for run in cfg.sft_pilots:

    rule:
        name:
            f"sft_{run}"
        input:
            image=image("sft"),
            base="models/base/manifest.json",
            data="data/sft.json",
        output:
            models=expand(
                f"runs/sft/{run}/models/sft-epoch{{epoch}}/manifest.json",
                epoch=range(1, cfg.pilot(run).epochs + 1),
            ),
            log=f"runs/sft/{run}/log.jsonl",
        log:
            f"logs/sft/{run}.log",
        benchmark:
            f"benchmarks/sft/{run}.tsv"
        container:
            container_of("sft")
        threads: 16
        params:
            code=code_digest("scripts.train_sft"),
            config=params(
                cfg.pilot(run),
                device=cfg.device,
                leading_space=cfg.tools.leading_space,
            ),
            run=run,
        shell:
            "{PYTHON[sft]} -m scripts.train_sft --base models/base --data {input.data} --run-dir runs/sft/{params.run} "
            "--models-dir runs/sft/{params.run}/models --params {params.config:q} 2>&1 | tee {log}"

    rule:
        name:
            f"select_{run}"
        input:
            models=expand(
                f"runs/sft/{run}/models/sft-epoch{{epoch}}/manifest.json",
                epoch=range(1, cfg.pilot(run).epochs + 1),
            ),
            log=f"runs/sft/{run}/log.jsonl",
        output:
            f"models/sft-{run}/manifest.json",
        log:
            f"logs/select_{run}.log",
        params:
            code=code_digest("scripts.select_checkpoint"),
            run=run,
        shell:
            "{PYTHON[workflow]} -m scripts.select_checkpoint --log {input.log} --models {input.models} "
            "--output models/sft-{params.run} 2>&1 | tee {log}"
