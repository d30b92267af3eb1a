"""From raw inputs to the tables of a study of advantage shaping for multi-tool reasoning.

make demo                                              the whole graph at laptop scale
snakemake --profile slurm results/table5.csv           the paper's scale, on a cluster
snakemake --profile slurm -n results/table5.csv        what that would run
"""

import os
import sys

from snakemake.utils import min_version, update_config

min_version("9.20")
sys.path.insert(0, workflow.basedir)

if not os.path.exists("config.yaml"):
    raise WorkflowError(
        f"{os.getcwd()} is not the folder of this workflow: cd {workflow.basedir}"
    )

from tir.common.errors import ConfigError
from tir.config.command_line import refuse_repeated_values, typed
from tir.config.experiment import load
from tir.config.params import operational_params, params, without
from tir.config.site import load_site
from tir.config.yaml_files import refuse_repeated_keys
from tir.workflow import routes, running
from tir.workflow.digests import code_digest
from tir.workflow.cost import gpus_of_job
from tir.workflow.engine import (
    config_files,
    is_plan,
    machine_gpus,
    record_identities,
    rerun_changed,
    stated_config,
)


configfile: "config.yaml"


files = ["config.yaml", *config_files(workflow)]
stated = typed(stated_config(workflow))
update_config(config, stated)
try:
    refuse_repeated_keys(files)
    refuse_repeated_values(sys.argv[1:])
    SITE = load_site(config.get("site"), files, stated)
    cfg = load(config, files, stated)
except ConfigError as error:
    raise WorkflowError(str(error))

# Settings of this machine, from the profile: Python interpreters, container images, endpoints of running servers.
PYTHON = {"workflow": "python3", "sft": "python3", "rl": "python3", **SITE.python}
PYTHON.setdefault("inspect", ".venv/inspect/bin/python")
# Python of the rules that run outside the images: downloads, selections, image builds.
HOST = sys.executable
# On a machine with GPUs and no Slurm (`--resources gpu=N`), each job asks for some of them and gets its own.
GPUS = machine_gpus(workflow)
ON_GPUS = "{HOST} -m scripts.with_gpus {resources.gpu} " if GPUS else ""
HELPER_ENDPOINT = SITE.helper_endpoint
TRACKING = params(**SITE.tracking.model_dump())


# All downloads come before the jobs with a GPU: a download has a higher priority and takes the whole resource
# `downloads`, of which a job with a GPU takes one. The profile states how much there is.
DOWNLOADS = 100


def gpus(rule):
    """Resources of a rule with a GPU: `gpu` on such a machine (elsewhere the profile states `gres`), and `downloads`."""
    return {"downloads": 1} | (
        {"gpu": gpus_of_job(rule, cfg, GPUS, SITE)} if GPUS else {}
    )


def download(source):
    """The resource `downloads` of a job that fetches a source: all of it if it comes from a network."""
    return DOWNLOADS if source.kind in ("hub", "url") else 0


report: "docs/captions/workflow.rst"


# Ctrl-C, or SIGTERM when a job is cancelled or preempted, reaches every process of a job. The Python process saves its
# state, prints a message and exits (tir/common/cli.py); its shell and `tee` ignore the signals until then.
shell.prefix("set -euo pipefail; trap '' INT TERM; ")


wildcard_constraints:
    model="|".join(cfg.models).replace(".", r"\.")
    + r"|sft(-\w+)?|[A-Za-z][\w.]*-step\d+(-dpo\d+)?-seed\d+",
    benchmark="|".join(cfg.benchmarks),
    arm="|".join(sorted(cfg.plain_arms)).replace(".", r"\."),
    seed=r"\d+",
    size=r"(n\d+/)?(sampled/)?",


include: "rules/containers.smk"
include: "rules/data.smk"
include: "rules/models.smk"
include: "rules/retrieval.smk"
include: "rules/sft.smk"
include: "rules/synthesis.smk"
include: "rules/rl.smk"
include: "rules/dpo.smk"
include: "rules/judge.smk"
include: "rules/traces.smk"
include: "rules/analysis.smk"
include: "rules/looking.smk"
include: "rules/preflight.smk"
include: "rules/plan.smk"


localrules:
    all,
    inspected,
    reported,
    fetch,
    system_prompt,
    validation_set,
    select_checkpoint,
    dpo_prompts,
    inspect_log,
    inspect_rollouts,


rule all:
    default_target: True
    input:
        expand("results/{table}.csv", table=TARGETS.tables),
        "results/claims.json",
        ["results/summary.html"] if TARGETS.summarised else [],
        [
            f"results/{size}{name}.csv"
            for name, size in MADE
            if size and cfg.full_size.in_all
        ],
        expand("results/{figure}.png", figure=TARGETS.figures),
        "results/retrieval_smoke.csv",
        looking.default(TARGETS),


rule inspected:
    """Logs of single trajectories for the viewer of inspect_ai; `make demo` makes them after `make inspect`."""
    input:
        lambda w: looking.logs(TARGETS),


rule reported:
    """What the report shows: the results of `all`, and further comparisons that have been made."""
    input:
        rules.all.input,
        lambda w: looking.existing(TARGETS, "results/compare"),


# Results are checked against identity/ (tir/workflow/identity.py), because Snakemake's own metadata can get lost.
def show_changed(changed):
    for path, reason in sorted(changed.items())[:10]:
        print(f"made again: {path}: {reason}", file=sys.stderr)
    if len(changed) > 10:
        print(f"made again: {len(changed) - 10} more", file=sys.stderr)


if workflow.is_main_process and not is_plan(workflow):
    running.begin()  # the locks of a killed run do not stop the same command

record_identities(workflow)
rerun_changed(workflow, accept="TIR_ACCEPT" in os.environ, report=show_changed)
