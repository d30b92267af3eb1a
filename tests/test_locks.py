"""The GPU stacks still resolve, to the versions and hashes that their locks hold."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
UV = ROOT / ".venv/uv/bin/uv"
LOCKS = sorted(path.stem for path in (ROOT / "envs/cuda").glob("*.txt"))
OPTIONS = ("--generate-hashes --no-header --no-annotate --no-emit-find-links --no-emit-index-url "
           "--python-version 3.11 --python-platform x86_64-manylinux_2_28").split()


@pytest.mark.skipif(not UV.is_file(), reason="no .venv/uv: run `make environments`")
@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_resolves_with_its_hashes(name, tmp_path):
    """The versions are given and the hashes asked for anew: uv would carry those of an old lock over unchecked."""
    lock = (ROOT / f"envs/cuda/{name}.txt").read_text()
    (tmp_path / "versions.txt").write_text("\n".join(re.findall(r"^\S+==\S+", lock, re.M)))
    environment = {key: value for key, value in os.environ.items() if key != "PIP_FIND_LINKS"}
    done = subprocess.run([UV, "-q", "pip", "compile", ROOT / f"envs/cuda/{name}.in", "-c", tmp_path / "versions.txt",
                           "-o", tmp_path / "lock.txt", *OPTIONS], env=environment, text=True, capture_output=True)
    if "error sending request" in done.stderr and not os.environ.get("CI"):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    fresh = _pins((tmp_path / "lock.txt").read_text())
    pinned = _pins(lock)
    assert fresh.keys() == pinned.keys()
    # An index may gain files of a version (a new platform's wheel); it must not lose or change one.
    assert not {package for package in pinned if not pinned[package] <= fresh[package]}


def _pins(text: str) -> dict[str, set[str]]:
    """Hashes by `name==version`."""
    return {block.split()[0]: set(re.findall(r"sha256:\w+", block)) for block in re.split(r"\n(?=\S)", text.strip())}


@pytest.mark.parametrize("environment, package", [("workflow", "snakemake"), ("sft", "transformers"), ("rl", "torch")])
def test_environments_are_compiled(environment, package):
    """Each job would compile what it imports where bytecode cannot be written, as in images."""
    (package,) = (ROOT / ".venv" / environment).glob(f"lib/python3*/site-packages/{package}")
    assert list((package / "__pycache__").glob("__init__.*.pyc"))
