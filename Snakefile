"""From raw inputs to the tables of a study of advantage shaping for multi-tool reasoning.

make demo                                              the whole graph at laptop scale
snakemake --profile slurm results/table5.csv           the paper's scale, on a cluster
snakemake --profile slurm -n results/table5.csv        what that would run
"""

import sys

from snakemake.utils import min_version, update_config

min_version("9.0")
sys.path.insert(0, workflow.basedir)

from tir.config import load, typed
from tir.errors import ConfigError
from tir.site import load_site
from tir.workflow import code_digest, operation, params


configfile: "config.yaml"


files = ["config.yaml", *map(str, workflow.config_settings.configfiles)]
stated = typed(dict(workflow.config_settings.config))
update_config(config, stated)
try:
    SITE = load_site(config.get("site"), files, stated)
    cfg = load(config, files, stated)
except ConfigError as error:
    raise WorkflowError(str(error))

# What the machine is like, from the profile: interpreters, container images, a standing retrieval server.
PYTHON = {"workflow": "python3", "sft": "python3", "rl": "python3", **SITE.python}
# Small rules without a stack: downloads, selections, image builds.
HOST = sys.executable
ENDPOINT = SITE.retrieval_endpoint
HELPER_ENDPOINT = SITE.helper_endpoint


report: "docs/captions/workflow.rst"


# Ctrl-C, and SIGTERM where a job is cancelled or preempted, reach every process of a job: the stage saves, says so and
# ends (tir/cli.py); its shell and `tee` must outlive it.
shell.prefix("set -euo pipefail; trap '' INT TERM; ")


wildcard_constraints:
    model=r"published|sft|sft-epoch\d+|sft-(?!epoch)[a-z]\w*|[A-Za-z][\w.]*-step\d+-seed\d+",
    benchmark="|".join(cfg.benchmarks),
    arm="|".join(sorted(cfg.arms)).replace(".", r"\."),
    seed=r"\d+",
    size=r"(n\d+/)?",


include: "rules/containers.smk"
include: "rules/data.smk"
include: "rules/retrieval.smk"
include: "rules/sft.smk"
include: "rules/rl.smk"
include: "rules/judge.smk"
include: "rules/traces.smk"
include: "rules/analysis.smk"
include: "rules/preflight.smk"
include: "rules/plan.smk"


localrules:
    all,
    fetch,
    fetch_model,
    system_prompt,
    validation_set,
    select_checkpoint,


rule all:
    default_target: True
    input:
        expand("results/{table}.csv", table=TARGETS.tables),
        "results/claims.json",
        [
            f"results/{size}{name}.csv"
            for name, size in MADE
            if size and cfg.full_size.in_all
        ],
        expand("results/{figure}.png", figure=TARGETS.figures),
        "results/retrieval_smoke.csv",
