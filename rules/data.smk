# Inputs, each from the source its configuration names: a hub, an address, a local file, or the generated world.

WORLD_FILES = [
    "corpus.jsonl",
    "rl_train.parquet",
    "rl_validation.parquet",
    *(
        f"benchmarks/{name}.jsonl"
        for name, each in cfg.benchmarks.items()
        if each.source.kind == "world"
    ),
]
SOURCES = {
    "sft.json": cfg.data.sft,
    "corpus.jsonl": cfg.data.corpus,
    "rl_train.parquet": cfg.data.rl_train,
    "rl_validation.parquet": cfg.data.rl_validation,
    **{
        f"benchmarks/{name}.jsonl": item.source for name, item in cfg.benchmarks.items()
    },
}


if cfg.world:

    rule world:
        """The generated world: passages, benchmarks and RL rows in the upstream formats."""
        input:
            image=image("eval"),
        output:
            expand("data/world/{file}", file=WORLD_FILES),
        log:
            "logs/world.log",
        benchmark:
            "benchmarks/world.tsv"
        container:
            container_of("eval")
        params:
            code=code_digest("scripts.make_world"),
            config=params(cfg.world.stated()),
        shell:
            "{PYTHON[rl]} -m scripts.make_world --output-dir data/world --params {params.config:q} 2>&1 | tee {log}"

    rule world_trajectories:
        """SFT trajectories of the world, their results made by running the tools."""
        input:
            image=image("eval"),
            world="data/world/corpus.jsonl",
            index="index/manifest.json",
        output:
            "data/world/sft.json",
        log:
            "logs/world_trajectories.log",
        benchmark:
            "benchmarks/world_trajectories.tsv"
        container:
            container_of("eval")
        threads: 2
        params:
            code=code_digest("scripts.make_trajectories"),
            config=params(
                cfg.world.stated(),
                tools={"python": cfg.tools.python, "search": cfg.tools.search},
            ),
        shell:
            "{PYTHON[rl]} -m scripts.make_trajectories --world data/world --index index --output {output} "
            "--params {params.config:q} 2>&1 | tee {log}"


rule fetch:
    """One input file, checked against its checksum and row count."""
    input:
        lambda w: (
            f"data/world/{w.file}"
            if SOURCES[w.file].kind == "world"
            else SOURCES[w.file].local_files()
        ),
    output:
        "data/{file}",
    log:
        "logs/fetch/{file}.log",
    wildcard_constraints:
        file="|".join(SOURCES).replace(".", r"\."),
    params:
        code=code_digest("scripts.fetch_data"),
        source=lambda w: params(SOURCES[w.file]),
    shell:
        "{HOST} -m scripts.fetch_data --name {wildcards.file} --output {output} "
        "--params {params.source:q} 2>&1 | tee {log}"


rule system_prompt:
    """The system prompt: the instruction column of the SFT data, checked by its hash."""
    input:
        sft="data/sft.json",
    output:
        "data/system_prompt.txt",
    log:
        "logs/system_prompt.log",
    params:
        code=code_digest("scripts.extract_prompt"),
        config=params(sha256=cfg.data.prompt_sha256),
    shell:
        "{HOST} -m scripts.extract_prompt --sft {input.sft} --output {output} "
        "--params {params.config:q} 2>&1 | tee {log}"


rule validation_set:
    """The validation rows of RL: stratified, seeded, without benchmark questions."""
    input:
        rows="data/rl_validation.parquet",
        benchmarks=[
            f"data/benchmarks/{name}.jsonl"
            for name, each in cfg.benchmarks.items()
            if each.kept_from_validation
        ],
    output:
        "data/validation.parquet",
    log:
        "logs/validation_set.log",
    params:
        code=code_digest("scripts.select_validation"),
        config=params(cfg.data.validation),
    shell:
        "{HOST} -m scripts.select_validation --rows {input.rows} --benchmarks {input.benchmarks} "
        "--output {output} --params {params.config:q} 2>&1 | tee {log}"
