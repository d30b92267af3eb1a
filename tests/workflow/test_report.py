"""The report of a finished workflow: comparisons by default and on request, and the logs beside it."""

import re
import shutil

import pytest
from support import chromium
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


@pytest.mark.skipif(not chromium.PROGRAM.exists(), reason="no /usr/bin/chromium: apt-get install chromium")
@pytest.mark.parametrize(("width", "height"), [(1400, 900), (420, 800)])
def test_the_report_opens_on_the_summary(workflow, width, height):
    """On a wide and a narrow screen: nothing of the text lies above or beside what can be scrolled to."""
    shutil.copytree(ROOT / "docs/captions", workflow / "docs/captions")
    snakemake(workflow, "--report", "results/report.html", "--", "reported")
    with chromium.Browser(width, height) as page:
        page.open(workflow / "results/report.html")
        page.wait("document.querySelector('.prose')")
        text, first = (
            f"document.querySelector('{name}').getBoundingClientRect()" for name in (".prose", ".prose strong")
        )
        assert 0 <= page.run(f"{first}.top") < height / 2
        assert 0 <= page.run(f"{text}.left") < page.run(f"{text}.right") <= width
        assert page.run(
            "[...document.querySelectorAll('.prose, .prose pre')].every(e => e.scrollWidth <= e.clientWidth)"
        )
