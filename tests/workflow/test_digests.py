"""Code digests: comments and docstrings rerun nothing. `test_edits.py` edits constants."""

import ast
import random
import re

import pytest
from support.edits import commented, modules, redocumented, reworded
from support.paths import ROOT, SNAKEMAKE
from support.workflow_copy import planned

from tir.workflow import digests


def test_equal_code_has_equal_digests_and_different_code_different_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "ROOT", tmp_path)
    (tmp_path / "tir").mkdir()

    def tree_digest(source: str) -> str:
        digests._read.cache_clear()
        (tmp_path / "tir/module.py").write_text(source)
        return digests._read("tir/module.py").tree_digest

    same = [
        ("x = 1", "# why\nx = (1)  # what\n\n"),
        ("def f():\n    return 1", 'def f():\n    """Words."""\n    return 1'),
        ("def f(a, b): return a", "def f(\n    a,\n    b,\n):\n    return a"),
        ("s = 'ab'", 's = "a" "b"'),
        ("x = f'{a!r:>{b}}'", 'x = f"{a!r:>{b}}"'),
        ("class A(Model):\n    x: int = 1\ny = 2", "class A(Model):\n    x: int = Field(2, gt=0)\ny = 2"),
    ]
    different = [
        ("x = 1", "x = 2"),
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = a + b", "x = a - b"),
        ("x = a", "x = b"),
        ("x = None", "x = ''"),
        ("return_ = f(1, a=2)", "return_ = f(1, b=2)"),
        ("def f():\n    return None", "def f():\n    return"),
        ("x = 'words'", "x = 'other words'"),
        ("x = f'{a}'", "x = f'{a!r}'"),
        ("x = {**a}", "x = {None: a}"),
        ("def f(a, /): pass", "def f(a): pass"),
        ("def f(): yield 1", "async def f(): yield 1"),
        ("class A(Thing):\n    x: int = 1", "class A(Thing):\n    x: int = 2"),
    ]
    assert all(tree_digest(one) == tree_digest(two) for one, two in same)
    assert not [pair for pair in different if tree_digest(pair[0]) == tree_digest(pair[1])]


def test_a_relative_import_is_an_import(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "ROOT", tmp_path)
    (tmp_path / "tir/inner").mkdir(parents=True)
    (tmp_path / "tir/inner/entry.py").write_text("from . import one\nfrom .two import x\nfrom ..three import y\n")
    names = ["tir/__init__.py", "tir/inner/__init__.py", "tir/inner/one.py", "tir/inner/two.py", "tir/three.py"]
    for name in names:
        (tmp_path / name).write_text("")
    for cached in (digests._read, digests._file):
        cached.cache_clear()
    assert digests.code("tir.inner.entry") == sorted(["tir/inner/entry.py", *names])
    for cached in (digests._read, digests._file):
        cached.cache_clear()


def test_docstrings_are_read_only_as_help_texts():
    """Digests ignore docstrings, so no result may depend on one."""
    for path in (ROOT / name for name in modules(ROOT)):
        if path.is_relative_to(ROOT / "tir/config"):
            continue
        tree = ast.parse(path.read_text())
        help_texts = [
            value
            for call in ast.walk(tree)
            if isinstance(call, ast.Call) and re.search(r"[pP]arser$", ast.unparse(call.func))
            for value in [*call.args, *(each.value for each in call.keywords)]
        ]
        read = [node for node in ast.walk(tree) if "__doc__" in (getattr(node, "id", ""), getattr(node, "attr", ""))]
        assert all(node in help_texts for node in read), path


@pytest.mark.skipif(not SNAKEMAKE.is_file(), reason="no .venv/workflow: run `make environments`")
def test_comments_docstrings_and_formatting_rerun_nothing(workflow):
    draw = random.Random(0)
    for path in (workflow / name for name in modules(workflow)):
        source = path.read_text()
        for edit in draw.sample([commented, redocumented, reworded], draw.randint(1, 3)):
            source = edit(source, draw)
        path.write_text(source)
    assert planned(workflow) == {"table7", "all"}  # Table 7 counts the lines of aspo/
