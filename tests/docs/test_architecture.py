"""The architecture page: its picture names the rules, its list the folders, and imports go the way it says."""

from __future__ import annotations

import ast
import re
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest
from support.paths import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
# config reads names from their owners above it: (file, module).
AGAINST_THE_ARROWS = {
    ("tir/config/references.py", "tir.analysis.tables.reference"),
    ("tir/config/source_references.py", "tir.world.benchmarks"),
}


def test_the_picture_names_every_rule():
    drawn = {
        element.text
        for element in ElementTree.parse(ROOT / "docs/architecture.svg").iter("{http://www.w3.org/2000/svg}text")
        if element.get("class") == "rule"
    }
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "rules").glob("*.smk")]
    rules = {name for text in texts for name in re.findall(r"^ *rule (\w+):", text, re.M)}
    assert drawn == rules | {"tables", "figures"}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git says which folders belong to the repository")
def test_the_list_names_every_folder():
    listed, package = set(), ""
    for line in re.search(r"```text\n(Snakefile.*?)```", PAGE, re.S)[1].splitlines():
        name = line.split()[0]
        package = "" if line[0] != " " else package or "tir/"
        listed.add(package + name)
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, text=True, capture_output=True, check=True).stdout
    folders = {f"{path.split('/')[0]}/" for path in tracked.splitlines() if "/" in path and path[0] != "."}
    folders |= {
        f"tir/{path.split('/')[1]}/" for path in tracked.splitlines() if path.count("/") > 1 and path[:4] == "tir/"
    }
    assert {name for name in listed if name.endswith("/")} - {"slurm/"} == folders


def test_imports_go_the_way_the_page_says():
    order = [names.split(", ") for names in re.search(r"inside tir: (.*)", PAGE)[1].split(" -> ")]
    level = {name: number for number, names in enumerate(order) for name in names}
    assert set(level) == {path.parent.name for path in (ROOT / "tir").glob("*/__init__.py")}
    against, outside = set(), set()
    for path in sorted((ROOT / "tir").glob("*/**/*.py")):
        package, file = path.relative_to(ROOT / "tir").parts[0], path.relative_to(ROOT).as_posix()
        for module in _imported(path):
            root, _, rest = module.partition(".")
            other = rest.partition(".")[0]
            if root == "tir" and other != package and level[other] < level[package]:
                against.add((file, module))
            if root in ("scripts", "snakemake", "bench", "tests"):
                outside.add((file, module))
    assert against == AGAINST_THE_ARROWS and not outside
    for path in (ROOT / "aspo").glob("*.py"):
        roots = {module.partition(".")[0] for module in _imported(path)}
        assert not roots & {"tir", "scripts", "snakemake"}
        assert "verl" not in roots or path.name == "integration.py"


def _imported(path) -> set[str]:
    """Modules that a file imports, wherever in the file it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "tir":
            found |= {f"tir.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found
