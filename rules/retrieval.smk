# The retrieval index, and the server with which the jobs of a run search (tir/retrieval/standing.py). A Snakemake service
# rule would force all of these jobs onto one node.

from tir.retrieval import standing
from tir.workflow.engine import container_command

# Only this rule needs the encoder: it copies the encoder into the index, where the servers find it.
ENCODER = f"models/{cfg.retrieval.encoder.model}"

ENDPOINT = SITE.retrieval_endpoint
SERVER = SITE.retrieval_server
SHARED = SERVER.runs_on != "none" and ENDPOINT == "none"
SERVER_GPUS = SERVER.gpus if SHARED and SERVER.runs_on == "local" else None
# The jobs leave these to the server. In the environment, because the command of a rule must not depend on the site.
os.environ["TIR_SERVER_GPUS"] = SERVER_GPUS or ""
RUN_FOLDER = standing.run_folder() if SHARED else "none"
# How a job finds its server. Nothing of this determines a result.
RETRIEVAL = params(
    endpoint=ENDPOINT, run=RUN_FOLDER, queue_s=SERVER.queue_s, start_s=SERVER.start_s
)


def searches(job):
    """Whether a planned job queries the retrieval server."""
    if job.rule == "traces":
        return routes.asks_retrieval(
            cfg.evaluation_tools, cfg.benchmarks[job.wildcards["benchmark"]].task
        )
    if job.rule == "teacher_samples":
        return routes.asks_retrieval(TEACHER_TOOLS, "math", "qa")
    if job.rule == "dpo_samples":
        return routes.asks_retrieval(cfg.tools, job.wildcards["task"])
    return (
        job.rule == "retrieval_smoke"
        or job.rule in ("rl", "rl_after_dpo")
        and RL_INDEX != "none"
    )


def start_retrieval_server(jobs):
    """Start the program that starts the run's server at the first search."""
    if SHARED and any(map(searches, jobs)):
        image = container_of("retrieval")
        host = "0.0.0.0" if SERVER.runs_on == "slurm" else "127.0.0.1"
        script = standing.script(
            PYTHON["rl"],
            RUN_FOLDER,
            SERVER.idle_s,
            host,
            inside=container_command(workflow, image) if image else "",
            gpus=SERVER_GPUS,
        )
        standing.start(
            RUN_FOLDER,
            {**SERVER.model_dump(include={"runs_on", "sbatch", "queue_s", "start_s"})}
            | {"script": script},
        )


rule index:
    """Encode the passages into a memory-mapped matrix; an interrupted job resumes at the next shard."""
    input:
        image=image("retrieval"),
        corpus="data/corpus.jsonl",
        encoder=f"{ENCODER}/manifest.json" if cfg.retrieval.backend == "dense" else [],
    output:
        "index/manifest.json",
    log:
        "logs/index.log",
    benchmark:
        "benchmarks/index.tsv"
    container:
        container_of("retrieval")
    threads: 8
    resources:
        **gpus("index"),
    params:
        code=code_digest("scripts.build_index"),
        config=params(retrieval=cfg.retrieval, device=cfg.device),
    shell:
        ON_GPUS
        + "{PYTHON[rl]} -m scripts.build_index --corpus {input.corpus} --encoder {ENCODER} --output index "
        "--params {params.config:q} 2>&1 | tee {log}"


rule retrieval_smoke:
    """Send three questions to a retrieval server; record titles and latencies (paper, appendix A.5)."""
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
        "{PYTHON[rl]} -m scripts.retrieval_smoke --index index --retrieval {RETRIEVAL:q} --output {output} "
        "--log {log}.server 2>&1 | tee {log}"
