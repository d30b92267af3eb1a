"""The report of a finished workflow: comparisons by default and on request, and the logs beside it."""

import re
import shutil

from support.paths import ROOT
from support.workflow_copy import snakemake


def test_the_report_has_the_comparisons_that_exist_and_links_to_logs(workflow):
    shutil.copytree(ROOT / "docs/captions", workflow / "docs/captions")
    snakemake(workflow, "--", "results/compare/sft_vs_grpo@last.html", fake=True)
    log = workflow / "results/inspect/rl/aspo-step20-seed1_val.eval"
    log.parent.mkdir(parents=True)
    log.touch()
    (workflow / "results/compare/sft_vs_nothing@last.html").touch()  # made by an earlier configuration
    snakemake(workflow, "--report", "results/report.html", "--", "reported")
    html = (workflow / "results/report.html").read_text()
    found = set(re.findall(r"results/compare/([^\"\\]*)\.html", html))
    assert found == {"sft_vs_aspo-step20-seed1", "sft_vs_grpo@last"} and "Comparisons" in html
    link = re.search(r'href=\\?"([^"\\]*)\\?">[^<]*aspo-step20-seed1_val.eval<', html)
    assert (workflow / "results" / link[1]).samefile(log)
