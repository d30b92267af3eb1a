# Input files, each from its configured source: the Hugging Face Hub, a URL, a local file, or the generated world.

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
        """Generate the world: passages, benchmarks and RL rows in the upstream formats."""
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
            config=params(world=without(cfg.world, "trajectories")),
        shell:
            "{PYTHON[rl]} -m scripts.make_world --output-dir data/world --params {params.config:q} 2>&1 | tee {log}"

    rule world_trajectories:
        """Generate SFT trajectories of the world; the tools run to produce their results."""
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
                world=cfg.world, python=cfg.tools.python, search=cfg.tools.search
            ),
        shell:
            "{PYTHON[rl]} -m scripts.make_trajectories --world data/world --index index --output {output} "
            "--params {params.config:q} 2>&1 | tee {log}"


if cfg.data.sft.kind == "rehearsal":

    rule rehearsal_rows:
        """Make SFT rows of the published format from the RL rows, the benchmarks and the passages."""
        input:
            rl="data/rl_train.parquet",
            benchmarks=expand("data/benchmarks/{name}.jsonl", name=cfg.benchmarks),
            corpus="data/corpus.jsonl",
        output:
            "data/sft.json",
        log:
            "logs/rehearsal_rows.log",
        params:
            code=code_digest("scripts.make_rehearsal_rows"),
            config=lambda w: params(rows=cfg.data.sft.rows, instruction=cfg.data.prompt),
        shell:
            "{HOST} -m scripts.make_rehearsal_rows --rl {input.rl} --benchmarks {input.benchmarks} "
            "--corpus {input.corpus} --output {output} --params {params.config:q} 2>&1 | tee {log}"


rule fetch:
    """Fetch one input file; check its checksum and row count."""
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
        file="|".join(
            name
            for name, source in SOURCES.items()
            if source.kind not in ("rehearsal", "synthesis")
        ).replace(".", r"\."),
    priority: 1
    resources:
        downloads=lambda w: download(SOURCES[w.file]),
    params:
        code=code_digest("scripts.fetch_data"),
        source=lambda w: params(source=SOURCES[w.file]),
    shell:
        "{HOST} -m scripts.fetch_data --name {wildcards.file} --output {output} "
        "--params {params.source:q} 2>&1 | tee {log}"


rule system_prompt:
    """Write the system prompt: the configured text, or the instruction column of the SFT data (checked by sha256)."""
    input:
        sft=[] if cfg.data.prompt else "data/sft.json",
    output:
        "data/system_prompt.txt",
    log:
        "logs/system_prompt.log",
    params:
        code=code_digest("scripts.extract_prompt"),
        # A function, because Snakemake would read braces in a prompt (\boxed{42}) as wildcards.
        config=lambda w: params(
            prompt=cfg.data.prompt,
            sha256=None if cfg.data.prompt else cfg.data.prompt_sha256,
        ),
    shell:
        "{HOST} -m scripts.extract_prompt --sft {input.sft} --output {output} "
        "--params {params.config:q} 2>&1 | tee {log}"


rule validation_set:
    """Select the validation rows of RL: a stratified, seeded sample without benchmark questions."""
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
        config=params(validation=cfg.data.validation),
    shell:
        "{HOST} -m scripts.select_validation --rows {input.rows} --benchmarks {input.benchmarks} "
        "--output {output} --params {params.config:q} 2>&1 | tee {log}"
