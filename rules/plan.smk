# Cost of jobs: `snakemake -n` ends with a table of jobs, GPU-hours and disk; a run writes the resources that each job
# used to results/resources.csv.

import atexit
from pathlib import Path

from tir.workflow.cost import plan
from tir.workflow.engine import is_plan, planned_jobs


def show_plan():
    """Print the totals of a plan, and write the input of `make preflight`."""
    jobs = planned_jobs(workflow)
    if jobs:
        write_preflight(jobs)
        print("\n" + plan(jobs, cfg, SITE.images.hardware), file=sys.stderr)


if is_plan(workflow):
    # Snakemake calls onstart, onsuccess and onerror only in real runs.
    atexit.register(show_plan)


onsuccess:
    if Path("benchmarks").is_dir():
        shell(
            "{HOST} -m scripts.collect_resources --benchmarks benchmarks --output results/resources.csv "
            "--reports {reports:q}",
            reports=list(Path("results").glob("efficiency_report_*.csv")),
        )
