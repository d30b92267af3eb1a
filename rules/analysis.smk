# Tables and figures from raw records. What a target reads is in tir/targets.py, by its name.

import re
from pathlib import Path

from tir.figures import module as figure_module
from tir.tables import module as table_module
from tir.targets import Targets

TARGETS = Targets(cfg)
# Directory of a target and of its records: the configured sizes, or the full test sets.
SIZES = ["", *([f"n{cfg.full_size.n}/"] if cfg.full_size else [])]
MADE = [(name, "") for name in [*TARGETS.tables, *TARGETS.extra]]
MADE += [(name, size) for size in SIZES[1:] for name in cfg.full_size.tables]
CHECKS = ("judgements", "leakage", "arithmetic")


def caption(name):
    """A target's caption in the report; tables that a configuration adds share one."""
    path = Path(workflow.basedir, "docs/captions", f"{name}.rst")
    return str(path if path.exists() else path.with_name("table.rst"))


def title(name, size=""):
    """What the report calls a target. Of two spaces HTML shows one, and Table 2 comes before Table 10."""
    words = re.sub(r"^(table|figure)(\d+)$", r"\1 \2", name).replace("_", " ")
    words = re.sub(r" (\d)$", r"  \1", words)
    return words[0].upper() + words[1:] + (", full test sets" if size else "")


for each, size in MADE:
    target = TARGETS.target(each, size)

    rule:
        name:
            f"{each}{size.strip('/') and '_' + size.strip('/')}"
        input:
            *target.files,
            image=image("analysis"),
            paper=TARGETS.printed(each),
        output:
            f"results/{size}{each}.csv",
            f"results/{size}{each}.md",
            f"results/{size}{each}.tex",
            report(
                f"results/{size}{each}.html",
                category="Checks" if each in CHECKS else "Tables",
                caption=caption(each),
                labels={"table": title(each, size)},
            ),
            [f"results/{size}{each}_{suffix}.csv" for suffix in target.companions],
        log:
            f"logs/{size}{each}.log",
        container:
            container_of("analysis")
        params:
            code=code_digest("scripts.make_table", table_module(each)),
            config=target.params,
            options=target.options,
            table=each,
        shell:
            "{PYTHON[workflow]} -m scripts.make_table --table {params.table} {params.options} "
            "--output {output[0]} --params {params.config:q} 2>&1 | tee {log}"


target = TARGETS.claims()


rule claims:
    """The paper's claims, recomputed from raw records: holds, does not hold, or not distinguishable at this n."""
    input:
        *target.files,
        image=image("analysis"),
        claims="tir/claims/claims.yaml",
    output:
        "results/claims.json",
        "results/claims.csv",
        "results/claims.md",
        "results/claims.tex",
        report(
            "results/claims.html",
            category="Claims",
            caption=caption("claims"),
            labels={"table": "The paper's claims"},
        ),
    log:
        "logs/claims.log",
    container:
        container_of("analysis")
    params:
        code=code_digest("scripts.check_claims"),
        config=target.params,
        options=target.options,
    shell:
        "{PYTHON[workflow]} -m scripts.check_claims {params.options} --output {output[0]} "
        "--params {params.config:q} 2>&1 | tee {log}"


for each in TARGETS.figures:
    target = TARGETS.target(each)

    rule:
        name:
            f"{each}"
        input:
            *target.files,
            image=image("analysis"),
            paper=TARGETS.printed(each),
        output:
            report(
                f"results/{each}.png",
                category="Figures",
                caption=caption(each),
                labels={"figure": title(each)},
            ),
            f"results/{each}.svg",
        log:
            f"logs/{each}.log",
        container:
            container_of("analysis")
        params:
            code=code_digest("scripts.make_figure", figure_module(each)),
            config=target.params,
            options=target.options,
            figure=each,
        shell:
            "{PYTHON[workflow]} -m scripts.make_figure --figure {params.figure} {params.options} "
            "--output {output[0]} --params {params.config:q} 2>&1 | tee {log}"
