"""Pages and public files point at things that exist: files, tests, make targets, results that were really written."""

from __future__ import annotations

import re

import pytest
import yaml
from support.paths import ROOT

from tir.analysis.pages import faults

PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "config/README.md", *sorted(ROOT.glob("docs/**/*.md"))]
TARGETS = re.findall(r"[\w-]+", re.search(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(), re.M)[1])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_targets_exist(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
        assert (path.parent / target).exists(), target
    for target in re.findall(r"(?:^|`|&& )make ([a-z][\w-]*)", text, re.M):
        assert target in TARGETS, target


def test_named_tests_exist():
    """A name that ends in `...` is the beginning of several."""
    files = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    functions = re.findall(r"^(?:async )?def (test_\w+)", "\n".join(files.values()), re.M)
    named = set()
    for path in PAGES:
        named |= set(re.findall(r"\b(test_\w+(?:\.py|\.\.\.)?)", path.read_text(encoding="utf-8")))
    assert len(named) > 20
    known = {*files, *functions}
    missing = {name for name in named - known if not name.endswith("...") or not _begins_one(name[:-3], functions)}
    assert not missing


def _begins_one(start: str, names: list[str]) -> bool:
    return any(name.startswith(start) for name in names)


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("README.md", ["table5"]),
        ("docs/tour.md", ["times", "math", "search", "table5", "differences", "claims"]),
        ("docs/results.md", ["coverage"]),
    ],
)
def test_results_in_pages_are_as_written(page, names):
    assert not faults((ROOT / page).read_text(encoding="utf-8"), names)


def test_the_workflow_on_github_calls_make_targets():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    called = {
        word
        for job in jobs.values()
        for step in job["steps"]
        if step.get("run", "").startswith("make ")
        for word in re.match(r"make((?: [a-z-]+)+)(?= |$)", step["run"])[1].split()
    }
    assert called == {"lint", "docs", "inspect", "test", "snakemake-versions", "demo"} and called <= set(TARGETS)


def test_the_catalogue_finds_what_it_asks_for():
    """Rules of the Snakemake workflow catalogue: a README with two words, rules/*.smk, settings, config/README.md."""
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text(encoding="utf-8"))["usage"]
    assert set(usage) >= {"mandatory-flags", "software-stack-deployment", "report"}
    (profile,) = re.findall(r"--profile (\S+)", usage["mandatory-flags"]["flags"])
    assert (ROOT / profile / "config.yaml").is_file() and (ROOT / "config/README.md").is_file()
    assert {"snakemake", "workflow"} <= set(re.findall(r"\w+", (ROOT / "README.md").read_text().lower()))
    assert (ROOT / "Snakefile").is_file() and all(path.suffix == ".smk" for path in (ROOT / "rules").iterdir())
