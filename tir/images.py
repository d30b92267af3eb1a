"""Container images: which files make which image, and the build itself, through spython and without privileges."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tir.errors import InfrastructureFault
from tir.records import file_digest, write_json
from tir.site import Images


@dataclass(frozen=True)
class Recipe:
    """What an image is made of.

    Attributes:
        lock: name of the hashed requirements, in envs/cuda or envs/cpu.
        cpu_lock: the same on a CPU, where fewer stacks serve more stages.
        shim: stand-in of a package that has no CPU build (envs/shims).
    """

    lock: str
    cpu_lock: str
    shim: str = "none"


RECIPES = {
    "sft": Recipe("sft", "sft", "torchaudio"),
    "rl": Recipe("rl", "rl", "vllm"),
    "eval": Recipe("eval", "rl", "vllm"),
    "retrieval": Recipe("retrieval", "rl"),
    "analysis": Recipe("workflow", "workflow"),
}


def lock_of(name: str, hardware: str) -> str:
    """Path of the requirements that go into an image; the analysis image needs no GPU anywhere."""
    recipe = RECIPES[name]
    on_cpu = hardware == "cpu" or name == "analysis"
    return f"envs/{'cpu' if on_cpu else hardware}/{recipe.cpu_lock if on_cpu else recipe.lock}.txt"


def sources(name: str, hardware: str) -> list[str]:
    """The small files an image is made of: editing one rebuilds it."""
    if name == "base":
        return ["containers/base.def"]
    shim = RECIPES[name].shim if hardware == "cpu" else "none"
    shims = [str(path) for path in sorted(Path("envs/shims", shim).rglob("*")) if path.suffix in (".py", ".toml")]
    return [f"containers/{name}.def", lock_of(name, hardware), *shims]


def arguments(name: str, site: Images, uv: str) -> dict[str, str]:
    """Build arguments of a definition file."""
    common = {"REVISION": _revision()}
    if name == "base":
        base = site.base
        return common | {"BOOTSTRAP": base.bootstrap, "FROM": base.image, "MIRROR": base.mirror, "UV": uv,
                         "PACKAGES": "libnuma1 gcc libc6-dev" if site.hardware == "cuda" else "libnuma1"}
    lock = lock_of(name, site.hardware)
    shim = {"SHIM": RECIPES[name].shim if site.hardware == "cpu" else "none"} if RECIPES[name].shim != "none" else {}
    return common | {"LOCK": lock, "DIGEST": file_digest(lock)} | shim


def build(name: str, output: str | os.PathLike, site: Images) -> None:
    """Build `output` (a .sif); beside it write `<name>.json`, its identity, and `<name>.build.json`, this build.

    Raises:
        InfrastructureFault: no container tool here, or the build failed; its own words stand in the log.
    """
    import uv
    from spython.main import Client

    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_suffix(".partial.sif")
    partial.unlink(missing_ok=True)
    options = [*site.options, "--force", "--mksquashfs-args", " ".join(site.compression)]
    for key, value in arguments(name, site, uv.find_uv_bin()).items():
        options += ["--build-arg", f"{key}={value}"]
    with _tool(), _site_binds(name, site) as binds, _environment(site):
        for bind in binds:
            options += ["--bind", bind]
        if not Client.build(recipe=f"containers/{name}.def", image=str(partial), options=options, sudo=False):
            raise InfrastructureFault(
                f"image {name} was not built", where=f"containers/{name}.def", why="apptainer says so above",
                remedy="see docs/containers.md: certificates, package index and space are in the profile's site.images")
        labels = _labels(partial)
    os.replace(partial, output)
    write_json(output.with_suffix(".build.json"), {
        "sha256": file_digest(output), "megabytes": round(output.stat().st_size / 1e6), "labels": labels})
    write_json(output.with_suffix(".json"), identity(name, site))


def identity(name: str, site: Images) -> dict[str, Any]:
    """What an image is made of: equal for two builds from the same sources, whatever their dates."""
    below = {"base": file_digest("images/base.json")} if name != "base" else site.base.model_dump()
    return {"image": name, "hardware": site.hardware, **below,
            "sources": {path: file_digest(path) for path in sources(name, site.hardware)}}


def _revision() -> str:
    """The commit the definition files are of, if this is a clone."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


@contextmanager
def _tool() -> Iterator[None]:
    """spython calls `singularity`; Apptainer answers to that name where its package says so, and here always."""
    found = shutil.which("singularity")
    tool = found or shutil.which("apptainer")
    if tool is None:
        raise InfrastructureFault("no container tool", where="PATH", why="neither apptainer nor singularity is there",
                                  remedy="install Apptainer 1.2 or newer, or load its module")
    if found:
        yield
        return
    before = os.environ["PATH"]
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "singularity").symlink_to(tool)
        os.environ["PATH"] = f"{directory}{os.pathsep}{before}"
        try:
            yield
        finally:
            os.environ["PATH"] = before


@contextmanager
def _site_binds(name: str, site: Images) -> Iterator[list[str]]:
    """The site's settings as files bound into the build; they are not in the image afterwards."""
    if name == "base":  # nothing to bind to yet
        yield []
        return
    with tempfile.NamedTemporaryFile("w", prefix="site-", suffix=".sh", dir=site.tmp) as script:
        environment = {"UV_LINK_MODE": "copy", "UV_CACHE_DIR": "/opt/cache"} | site.environment
        script.writelines(f"export {key}='{value}'\n" for key, value in environment.items())
        script.flush()
        binds = [f"{script.name}:/opt/site.sh:ro", *site.bind]
        if site.cache:
            cache = Path(site.cache).expanduser()
            cache.mkdir(parents=True, exist_ok=True)
            binds.append(f"{cache}:/opt/cache")
        yield binds


@contextmanager
def _environment(site: Images) -> Iterator[None]:
    """Room for the build where the site says."""
    before = dict(os.environ)
    if site.tmp:
        Path(site.tmp).mkdir(parents=True, exist_ok=True)
        os.environ["APPTAINER_TMPDIR"] = str(Path(site.tmp).resolve())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _labels(image: Path) -> dict[str, str]:
    done = subprocess.run(["singularity", "inspect", "--json", "--labels", str(image)], capture_output=True, text=True)
    try:
        return json.loads(done.stdout)["data"]["attributes"]["labels"]
    except (ValueError, KeyError, TypeError):
        return {}
