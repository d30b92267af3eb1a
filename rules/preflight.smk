# Before a run: check the rule names in the profile, and the machine. This takes seconds. Then start what runs beside
# Snakemake.

from pathlib import Path

from tir.common.records import write_json
from tir.config.profile import require_divisors, require_rules, require_server_gpus
from tir.config.references import TAKEN
from tir.workflow.cost import disk_gb, needs_gpu
from tir.workflow.engine import (
    gpus_of_profile,
    planned_jobs,
    requests,
    rules_of_profile,
)

# Rules whose jobs need more than a small node.
STAGES = [
    "index",
    "sft",
    "teacher_samples",
    "rl",
    "dpo_samples",
    "dpo",
    "rl_after_dpo",
    "traces",
    "judge",
    "scores",
]

try:
    require_rules(
        rules_of_profile(workflow),
        TAKEN | {rule_name(name, size) for name, size in MADE},
    )
    require_divisors(gpus_of_profile(workflow), cfg, GPUS)
    if SHARED:
        require_server_gpus(SERVER, GPUS)
except ConfigError as error:
    raise WorkflowError(str(error))


def inputs_from_elsewhere(jobs):
    """Every file and model that the jobs fetch, or that exists already, with its source: also judge and encoder."""
    fetched = {
        f"models/{job.wildcards['model']}" for job in jobs if job.rule == "fetch_model"
    }
    fetched |= {f"data/{job.wildcards['file']}" for job in jobs if job.rule == "fetch"}
    models = {f"models/{name}": source for name, source in cfg.models.items()}
    files = {f"data/{name}": source for name, source in SOURCES.items()}
    return [
        source.model_dump() | {"name": path, "path": path, "origin": source.path}
        for path, source in (files | models).items()
        if source.kind in ("hub", "url", "local")
        and (path in fetched or Path(path).exists())
    ]


def write_preflight(jobs):
    """Write the input of the checks: the nodes, files and disk space that these jobs need."""
    requested = requests(workflow)
    write_json(
        ".snakemake/preflight.json",
        {
            "slurm": any(each["partition"] for each in requested.values()),
            "stages": [
                each | {"needs_gpu": needs_gpu(name, cfg, JUDGE_ENDPOINT)}
                for name, each in requested.items()
                if name in STAGES
            ],
            "containers": SITE.containers,
            "hardware": SITE.images.hardware,
            "locks": ["envs/cuda/rl.txt"],
            "disk_gb": sum(disk_gb(jobs, cfg, SITE.images.hardware).values()),
            "sources": inputs_from_elsewhere(jobs),
            "tokens": SITE.tokens,
            "endpoint": ENDPOINT,
            "sbatch": SERVER.sbatch if SHARED and SERVER.runs_on == "slurm" else None,
            "gpus": GPUS,
            "server_gpus": SERVER_GPUS or "",
        },
    )


onstart:
    jobs = planned_jobs(workflow)
    if SITE.preflight:
        write_preflight(jobs)
        shell("{HOST} -m scripts.preflight")
    start_retrieval_server(jobs)
