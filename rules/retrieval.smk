# The index over the corpus. The server that reads it is a sidecar of the jobs that need it, not a rule: Snakemake's
# service rules would force all its consumers onto one node.


rule index:
    """Passages encoded into a memory-mapped matrix; resumes shard by shard."""
    input:
        image=image("retrieval"),
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
        code=code_digest("scripts.build_index"),
        config=params(cfg.retrieval, device=cfg.device),
    shell:
        "{PYTHON[rl]} -m scripts.build_index --corpus {input.corpus} --output index "
        "--params {params.config:q} 2>&1 | tee {log}"


rule retrieval_smoke:
    """Three questions to a server over the index: titles and latencies (paper, appendix A.5)."""
    input:
        image=image("retrieval"),
        index="index/manifest.json",
    output:
        "results/retrieval_smoke.csv",
    log:
        "logs/retrieval_smoke.log",
    container:
        container_of("retrieval")
    threads: 8
    params:
        code=code_digest("scripts.retrieval_smoke"),
    shell:
        "{PYTHON[rl]} -m scripts.retrieval_smoke --index index --endpoint {ENDPOINT:q} --output {output} "
        "--log {log}.server 2>&1 | tee {log}"
