# Before a run: checks in seconds (`snakemake preflight`). At the end of a plan (`-n`): jobs, GPU-hours, disk. After a run:
# what each job used, in results/resources.csv.

import atexit
from pathlib import Path

from tir.config.references import TAKEN
from tir.needs import Job, disk_gb, plan, wants_gpu
from tir.profile import require_rules
from tir.records import write_json

STAGES = ["index", "sft", "rl", "traces", "judge", "scores"]


def stage_resources(name):
    """What the profile asks for one job of a stage, at its first attempt."""
    asked = workflow.get_rule(name).expand_resources(None, [], 1)
    return {
        "rule": name,
        "partition": str(asked.get("slurm_partition", "")),
        "gres": str(asked.get("gres", "")),
        "cpus": int(asked["_cores"]),
        "memory_mb": int(asked.get("mem_mb", 0)),
    }


def inputs_from_elsewhere():
    """Every file and model the workflow fetches, and where from."""
    models = {f"models/{name}": source for name, source in cfg.model if source}
    files = {f"data/{name}": source for name, source in SOURCES.items()}
    return [
        source.model_dump() | {"name": path, "path": path, "origin": source.path}
        for path, source in (files | models).items()
        if source.kind != "world"
    ]


def planned_jobs():
    """The jobs of this run or plan."""
    return [
        Job(job.rule.name, job.wildcards_dict, str(job.resources.get("gres", "")))
        for job in workflow.dag.needrun_jobs(exclude_finished=False)
    ]


def missing_jobs():
    """Jobs of the default target that fill disks and whose output is not there: for checks without a plan."""
    tables = [cfg.tables[name] for name in TARGETS.tables if name in cfg.tables]
    shown = {row.model for table in tables for row in table.rows}
    arms = {model.partition("@")[0] for model in shown if "@" in model}
    made = {
        "images/{}.json": ("image", {same(name) for name in tir.images.RECIPES}),
        "index/manifest.json": ("index", {""}),
        "models/{}/manifest.json": ("sft", {"sft"}),
        "runs/rl/{}/metrics.jsonl": (
            "rl",
            {f"{arm}/seed{seed}" for arm in arms for seed in cfg.rl.seeds},
        ),
    }
    return [
        Job(rule, {})
        for path, (rule, names) in made.items()
        for name in names
        if not Path(path.format(name)).exists()
    ]


def needs(jobs):
    """What the checks look at, in a file: stages as the profile asks for them, sources, space for the jobs."""
    known = {each.name for each in workflow.rules}
    stages = [*STAGES, *(f"sft_{name}" for name in cfg.sft_pilots)]
    found = {
        "slurm": not workflow.local_exec,
        "stages": [
            stage_resources(name) | {"wants_gpu": wants_gpu(name, cfg, JUDGE_ENDPOINT)}
            for name in stages
            if name in known
        ],
        "containers": SITE.containers,
        "hardware": SITE.images.hardware,
        "locks": ["envs/cuda/rl.txt"],
        "disk_gb": sum(disk_gb(jobs, cfg, SITE.images.hardware).values()),
        "sources": inputs_from_elsewhere(),
        "tokens": SITE.tokens,
        "endpoint": ENDPOINT,
    }
    # Not an argument: Snakemake prints a command that fails, and this one shall leave the table to be read.
    path = Path(".snakemake/preflight.json")
    write_json(path, found)
    return str(path)


def show_plan():
    """Print the plan, once Snakemake has said its own."""
    if workflow.dryrun and workflow.is_main_process and workflow.dag is not None:
        jobs = planned_jobs()
        if jobs:
            print("\n" + plan(jobs, cfg, SITE.images.hardware), file=sys.stderr)


atexit.register(show_plan)


onstart:
    if "preflight" not in workflow.dag_settings.targets and not workflow.touch:
        if SITE.containers and not HAS_TOOL:
            raise WorkflowError(
                "No container tool here: install Apptainer or load its module."
            )
        if SITE.preflight:
            shell(
                "{HOST} -m scripts.preflight --needs {need}",
                need=needs(planned_jobs()),
            )


onsuccess:
    if Path("benchmarks").is_dir():
        known = {each.name for each in workflow.rules}
        stages = [stage_resources(name) for name in STAGES if name in known]
        shell(
            "{HOST} -m scripts.collect_resources --benchmarks benchmarks --output results/resources.csv --params {gres:q} "
            "--reports {reports:q}",
            reports=list(Path("results").glob("efficiency_report_*.csv")),
            gres=params({stage["rule"]: stage["gres"] for stage in stages}),
        )


localrules:
    preflight,


rule preflight:
    """The checks alone."""
    retries: 0
    params:
        need=lambda w: needs(missing_jobs()),
    shell:
        "{HOST} -m scripts.preflight --needs {params.need}"


if workflow.is_main_process:
    try:
        # A profile may speak of rules that only another scale has.
        require_rules(
            {
                "set-resources": workflow.resource_settings.overwrite_resources,
                "set-threads": workflow.resource_settings.overwrite_threads,
            },
            {each.name for each in workflow.rules} | TAKEN,
        )
    except ConfigError as error:
        raise WorkflowError(str(error))
