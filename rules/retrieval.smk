# The index over the corpus. The server that reads it is a sidecar of the jobs that need it, not a rule: Snakemake's
# service rules would force all its consumers onto one node.


rule index:
    """Passages encoded into a memory-mapped matrix; resumes shard by shard."""
    input:
        image=image("retrieval"),
        code=code("scripts.build_index"),
        corpus="data/corpus.jsonl",
    output:
        "index/manifest.json",
    log:
        "logs/index.log",
    benchmark:
        "benchmarks/index.tsv"
    container:
        container_of("retrieval")
    threads: 8
    params:
        config=params(cfg.retrieval, device=cfg.device),
    shell:
        "{PYTHON[rl]} -m scripts.build_index --corpus {input.corpus} --output index "
        "--params {params.config:q} 2>&1 | tee {log}"
