# Tables and figures from raw records. tir/workflow/targets.py defines the inputs of each.

import re
from pathlib import Path

from tir.workflow.digests import ROOT
from tir.workflow.targets import Targets, last_summary

TARGETS = Targets(cfg)
# Folders of targets and their records: "" for the configured sizes, "n500/" for the full test sets.
SIZES = ["", *([f"n{cfg.full_size.n}/"] if cfg.full_size else [])]
MADE = [(name, "") for name in [*TARGETS.tables, *TARGETS.extra]]
MADE += [(name, size) for size in SIZES[1:] for name in cfg.full_size.tables]
MADE += [(name, "") for name in TARGETS.study_tables]
FOLDER = dict.fromkeys([*TARGETS.study_tables, *TARGETS.study_figures], "study/")
# For the report: its captions say what a generated run is, and its first page has the sentences of the last summary and
# names the logs of inspect_ai that there are.
config["origin"] = TARGETS.origin_label()
config["summary"] = last_summary("results/summary.json")
config["logs"] = sorted(
    str(path.relative_to("results")) for path in Path("results/inspect").rglob("*.eval")
)
CHECKS = ("judgements", "leakage", "arithmetic")


def rule_name(name, size):
    """Name of the rule that makes a table: `table5`, or `table5_n500` from the full test sets."""
    return f"{name}_{size.strip('/')}" if size else name


def caption(name):
    """Path of a target's caption in the report; tables that a user adds have a common one."""
    path = ROOT / "docs/captions" / f"{name}.rst"
    return str(path if path.exists() else path.with_name("table.rst"))


def title(name, size=""):
    """Title of a target in the report. Two spaces before one digit sort Table 2 before Table 10; HTML shows one."""
    words = re.sub(r"^(table|figure)(\d+)$", r"\1 \2", name).replace("_", " ")
    words = re.sub(r" (\d)$", r"  \1", words)
    return words[0].upper() + words[1:] + (", full test sets" if size else "")


# One rule per table and figure, instead of one with a wildcard: they differ in the number of output files, which a
# wildcard cannot express, and in the code digest.
for each, size in MADE:
    target = TARGETS.target(each, size)

    rule:
        name:
            rule_name(each, size)
        input:
            *target.files,
            image=image("analysis"),
            paper=TARGETS.printed(each),
        output:
            f"results/{size}{FOLDER.get(each, '')}{each}.csv",
            f"results/{size}{FOLDER.get(each, '')}{each}.md",
            f"results/{size}{FOLDER.get(each, '')}{each}.tex",
            report(
                f"results/{size}{FOLDER.get(each, '')}{each}.html",
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
            code=code_digest("scripts.make_table", target.module),
            config=target.params,
            options=target.options,
            table=each,
        shell:
            "{PYTHON[workflow]} -m scripts.make_table --table {params.table} {params.options} "
            "--output {output[0]} --params {params.config:q} 2>&1 | tee {log}"


if TARGETS.summarised:
    target = TARGETS.summary()

    rule summary:
        """Say in sentences what was run, what was found and what was not."""
        input:
            *target.files,
            image=image("analysis"),
        output:
            report(
                "results/summary.html",
                category="Summary",
                caption=caption("summary"),
                labels={"page": "Summary"},
            ),
            "results/summary.json",
        log:
            "logs/summary.log",
        container:
            container_of("analysis")
        params:
            code=code_digest("scripts.write_summary"),
            config=target.params,
            options=target.options,
        shell:
            "{PYTHON[workflow]} -m scripts.write_summary {params.options} --output {output[0]} "
            "--params {params.config:q} 2>&1 | tee {log}"


target = TARGETS.claims()


rule claims:
    """Check the paper's claims on raw records: holds, does not hold, or not distinguishable at this sample size."""
    input:
        *target.files,
        image=image("analysis"),
        claims="tir/analysis/claims/claims.yaml",
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


for each in [*TARGETS.figures, *TARGETS.study_figures]:
    target = TARGETS.target(each)

    rule:
        name:
            each
        input:
            *target.files,
            image=image("analysis"),
            paper=TARGETS.printed(each),
        output:
            report(
                f"results/{FOLDER.get(each, '')}{each}.png",
                category="Figures",
                caption=caption(each),
                labels={"figure": title(each)},
            ),
            f"results/{FOLDER.get(each, '')}{each}.svg",
        log:
            f"logs/{each}.log",
        container:
            container_of("analysis")
        params:
            code=code_digest("scripts.make_figure", target.module),
            config=target.params,
            options=target.options,
            figure=each,
        shell:
            "{PYTHON[workflow]} -m scripts.make_figure --figure {params.figure} {params.options} "
            "--output {output[0]} --params {params.config:q} 2>&1 | tee {log}"
