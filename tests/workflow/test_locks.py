"""The locks of the GPU environments: they still resolve to the same versions and hashes, and fit together."""

import ast
import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest
from support.paths import ROOT

from tir.workflow.digests import code
from tir.workflow.images import RECIPES

UV = ROOT / ".venv/uv/bin/uv"
LOCKS = sorted(path.stem for path in (ROOT / "envs/cuda").glob("*.txt"))
OPTIONS = (
    "--generate-hashes --no-header --no-annotate --no-emit-find-links --no-emit-index-url "
    "--python-version 3.11 --python-platform x86_64-manylinux_2_28"
).split()


@pytest.mark.skipif(not UV.is_file(), reason="no .venv/uv: run `make environments`")
@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_resolves_with_its_hashes(name, tmp_path):
    """Resolve with the pinned versions but without the lock, because uv copies hashes of an existing lock unchecked."""
    lock = (ROOT / f"envs/cuda/{name}.txt").read_text()
    (tmp_path / "versions.txt").write_text("\n".join(re.findall(r"^\S+==\S+", lock, re.M)))
    overrides = ROOT / f"envs/cuda/{name}.overrides"
    environment = {key: value for key, value in os.environ.items() if key != "PIP_FIND_LINKS"}
    done = subprocess.run(
        [
            UV,
            "-q",
            "pip",
            "compile",
            ROOT / f"envs/cuda/{name}.in",
            "-c",
            tmp_path / "versions.txt",
            "-o",
            tmp_path / "lock.txt",
            *(["--override", overrides] if overrides.exists() else []),
            *OPTIONS,
        ],
        env=environment,
        text=True,
        capture_output=True,
    )
    if "error sending request" in done.stderr and not os.environ.get("CI"):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    fresh = _pins((tmp_path / "lock.txt").read_text())
    pinned = _pins(lock)
    assert fresh.keys() == pinned.keys()
    # An index may add files to a version (a wheel for another platform), but must not remove or change one.
    assert not {package for package in pinned if not pinned[package] <= fresh[package]}


def _pins(text: str) -> dict[str, set[str]]:
    """Hashes by `name==version`."""
    return {block.split()[0]: set(re.findall(r"sha256:\w+", block)) for block in re.split(r"\n(?=\S)", text.strip())}


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_what_the_stages_of_its_image_import(name):
    """Also what they import only where they need it, such as pyarrow for a file of RL rows."""
    locked = {
        _canonical(each) for each in re.findall(r"^([\w.-]+)==", (ROOT / f"envs/cuda/{name}.txt").read_text(), re.M)
    }
    own, providers = {"aspo", "scripts", "tir"}, packages_distributions()
    stages = [each for each in RECIPES[name].imports if each.split(".")[0] in own]
    missing = {}
    for file in sorted({file for stage in stages for file in code(stage)}):
        for module in sorted(_imported(ast.parse((ROOT / file).read_text())) - own - sys.stdlib_module_names):
            packages = set(map(_canonical, providers.get(module, [module])))
            if not any(each in packages or re.match(rf"{_canonical(module)}(-|$)", each) for each in locked):
                missing.setdefault(module, file)
    assert stages and not missing


def _canonical(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def _imported(tree: ast.AST) -> set[str]:
    """Top-level names of the modules that a syntax tree imports, except for type checkers."""
    found = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found |= {each.name.split(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            found |= _imported(node)
    return found


@pytest.mark.parametrize("environment, package", [("workflow", "snakemake"), ("sft", "transformers"), ("rl", "torch")])
def test_environments_contain_bytecode(environment, package):
    """Without it, each job compiles its imports again if the environment is read-only, as in images."""
    (package,) = (ROOT / ".venv" / environment).glob(f"lib/python3*/site-packages/{package}")
    assert list((package / "__pycache__").glob("__init__.*.pyc"))


def test_torch_and_its_companions_agree_in_every_image():
    """LLaMA-Factory imports torchaudio, which fails with a torch of another release or CUDA version.

    torchvision 0.N requires torch 2.(N - 15). All images have one CUDA runtime, so one driver version suffices. The GPU
    build of FAISS shares it too; the one of PyPI's `faiss-gpu` would add the runtime of CUDA 12.
    """
    runtimes = set()
    for name in LOCKS:
        lock = (ROOT / f"envs/cuda/{name}.txt").read_text()
        version = dict(re.findall(r"^(torch|torchvision|torchaudio|nvidia-cuda-runtime)==([\d.]+)", lock, re.M))
        assert not re.search(r"^nvidia-\S+-cu12==", lock, re.M), name
        minor = int(version["torch"].split(".")[1])
        assert version.get("torchaudio", version["torch"]) == version["torch"], name
        assert version.get("torchvision", f"0.{minor + 15}.0").startswith(f"0.{minor + 15}."), name
        runtimes.add(version["nvidia-cuda-runtime"].rpartition(".")[0])
    assert len(runtimes) == 1, runtimes
