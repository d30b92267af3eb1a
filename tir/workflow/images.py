"""Container images: the source files of each image, and an unprivileged build through spython."""

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

from tir.common.errors import InfrastructureFault
from tir.common.files import only_writer
from tir.common.records import file_digest, write_json
from tir.config.site import Images


@dataclass(frozen=True)
class Recipe:
    """Requirements of an image.

    Attributes:
        lock: name of the hashed requirements in envs/cuda.
        cpu_lock: name of the hashed requirements in envs/cpu, where several stages share one environment.
        shim: folder in envs/shims with a stub of a package that has no CPU build; "none" if there is none.
        imports: modules that its test imports: the scripts of its stages, and what they import only at first use.
        cuda_imports: further modules of the CUDA image.
        cuda_calls: what the stages call only on a GPU, as `module:name`, and the arguments that they give by name.
    """

    lock: str
    cpu_lock: str
    shim: str = "none"
    imports: tuple[str, ...] = ()
    cuda_imports: tuple[str, ...] = ()
    cuda_calls: tuple[tuple[str, str], ...] = ()


_VLLM = ("vllm", "vllm.v1.engine.async_llm", "vllm.entrypoints.openai.api_server")
# Fields of the engine that the stages set: in this process, on the server's command line, and through verl.
_ENGINE = (
    "vllm:AsyncEngineArgs",
    "model dtype max_model_len max_num_seqs enforce_eager seed gpu_memory_utilization kv_cache_memory_bytes "
    "tensor_parallel_size served_model_name worker_extension_cls enable_sleep_mode",
)
_SAMPLING = (
    "vllm:SamplingParams",
    "temperature top_p top_k seed stop stop_token_ids repetition_penalty max_tokens logprobs "
    "include_stop_str_in_output skip_special_tokens",
)
_ATTENTION = ("torch.nn.attention.varlen:varlen_attn", "scale window_size")
_SEARCH = ("tir.retrieval.server", "tir.retrieval.encoder", "faiss", "bm25s")
RECIPES = {
    "sft": Recipe(
        "sft",
        "sft",
        "torchaudio",
        (
            "scripts.train_sft",
            "scripts.train_dpo",
            "tir.dpo.entry",
            "llamafactory.launcher",
            "llamafactory.train.tuner",
        ),
        ("deepspeed", "liger_kernel.transformers"),
        (_ATTENTION, ("liger_kernel.transformers.model.qwen2:lce_forward", "labels position_ids skip_logits")),
    ),
    "rl": Recipe(
        "rl",
        "rl",
        "vllm",
        (
            "scripts.train_rl",
            "scripts.name_policy",
            "tir.rl.entry",
            "tir.rl.agent_loop",
            "tir.rl.weights",
            "tir.rl.callback",
            "aspo.integration",
            "verl.trainer.main_ppo",
            "verl.trainer.ppo.v1",
            "verl.workers.rollout.vllm_rollout.vllm_async_server",
            *_VLLM,
            *_SEARCH,
        ),
        ("torchvision", "torchaudio"),
        (_ATTENTION, _ENGINE, _SAMPLING),
    ),
    "eval": Recipe(
        "eval",
        "rl",
        "vllm",
        (
            "scripts.generate_traces",
            "scripts.make_pairs",
            "scripts.judge_traces",
            "scripts.sample_teacher",
            "scripts.classify_questions",
            "scripts.make_world",
            "scripts.make_trajectories",
            "scripts.make_tiny_model",
            "scripts.fetch_model",
            "tir.rollout.engines.vllm",
            "tir.common.transformers_server",
            *_VLLM,
            *_SEARCH,
        ),
        ("torchvision", "torchaudio"),
        (_ENGINE, _SAMPLING),
    ),
    "retrieval": Recipe(
        "retrieval",
        "rl",
        imports=("scripts.build_index", "scripts.retrieval_smoke", *_SEARCH),
        cuda_imports=("faiss.contrib.torch_utils",),
        cuda_calls=(("faiss:knn_gpu", "metric"),),
    ),
    "analysis": Recipe(
        "workflow",
        "workflow",
        imports=(
            "scripts.score_traces",
            "scripts.normalise_samples",
            "scripts.make_table",
            "scripts.write_summary",
            "scripts.make_figure",
            "scripts.check_claims",
            "scripts.collect_items",
            "scripts.compare_models",
            "scripts.write_lm_eval",
            "math_verify",
            "matplotlib.pyplot",
            "pandas",
            "statsmodels.api",
        ),
    ),
}


def lock_of(name: str, hardware: str) -> str:
    """Path of the requirements of an image; the analysis image always gets those for CPUs."""
    recipe = RECIPES[name]
    on_cpu = hardware == "cpu" or name == "analysis"
    return f"envs/{'cpu' if on_cpu else hardware}/{recipe.cpu_lock if on_cpu else recipe.lock}.txt"


def sources(name: str, hardware: str) -> list[str]:
    """Source files of an image; an edit of one of them rebuilds the image."""
    if name == "base":
        return ["containers/base.def"]
    shim = RECIPES[name].shim if hardware == "cpu" else "none"
    shims = [str(path) for path in sorted(Path("envs/shims", shim).rglob("*")) if path.suffix in (".py", ".toml")]
    return [f"containers/{name}.def", lock_of(name, hardware), *shims]


def arguments(name: str, site: Images, uv: str) -> dict[str, str]:
    """Build arguments for the image's definition file; `uv` is the path of the uv binary."""
    common = {"REVISION": _revision()}
    if name == "base":
        base = site.base
        return common | {
            "BOOTSTRAP": base.bootstrap,
            "FROM": base.image,
            "MIRROR": base.mirror,
            "UV": uv,
            "PACKAGES": "libnuma1 g++ libc6-dev" if site.hardware == "cuda" else "libnuma1",
        }
    lock = lock_of(name, site.hardware)
    shim = {"SHIM": RECIPES[name].shim if site.hardware == "cpu" else "none"} if RECIPES[name].shim != "none" else {}
    hardware = "cpu" if lock.startswith("envs/cpu") else site.hardware
    return common | {"LOCK": lock, "DIGEST": file_digest(lock), "HARDWARE": hardware} | shim


def build(name: str, output: str | os.PathLike, site: Images) -> None:
    """Build `output` (a .sif) and write two files beside it: `<name>.json` (identity) and `<name>.build.json` (sha256,
    size and labels of this build).

    Raises:
        InfrastructureFault: no container tool was found, or the build failed; the log has the tool's messages.
    """
    import uv
    from spython.main import Client

    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_suffix(".partial.sif")
    options = [*site.options, "--force", "--mksquashfs-args", " ".join(site.compression)]
    for key, value in arguments(name, site, uv.find_uv_bin()).items():
        options += ["--build-arg", f"{key}={value}"]
    with only_writer(output), _tool(), _site_binds(name, site) as binds, _environment(site):
        partial.unlink(missing_ok=True)
        for bind in binds:
            options += ["--bind", bind]
        if not Client.build(recipe=f"containers/{name}.def", image=str(partial), options=options, sudo=False):
            raise InfrastructureFault(
                f"image {name} was not built",
                where=f"containers/{name}.def",
                why="the build failed; apptainer's messages are above",
                remedy="set certificates, package index or tmp under site.images in the profile, see docs/cluster.md",
            )
        labels = _labels(partial)
        os.replace(partial, output)
    write_json(
        output.with_suffix(".build.json"),
        {"sha256": file_digest(output), "megabytes": round(output.stat().st_size / 1e6), "labels": labels},
    )
    write_json(output.with_suffix(".json"), identity(name, site))


def identity(name: str, site: Images) -> dict[str, Any]:
    """Identity of an image: digests of its sources. Two builds from the same sources have the same identity."""
    below = {"base": file_digest("images/base.json")} if name != "base" else site.base.model_dump()
    return {
        "image": name,
        "hardware": site.hardware,
        **below,
        "sources": {path: file_digest(path) for path in sources(name, site.hardware)},
    }


def _revision() -> str:
    """Git commit of the definition files; "unknown" outside a clone."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


@contextmanager
def _tool() -> Iterator[None]:
    """Put a `singularity` command on PATH, because spython calls it by that name; a link to `apptainer` if needed."""
    found = shutil.which("singularity")
    tool = found or shutil.which("apptainer")
    if tool is None:
        raise InfrastructureFault(
            "no container tool",
            where="PATH",
            why="neither apptainer nor singularity was found",
            remedy="install Apptainer 1.2 or newer, or load its module",
        )
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
    """Yield bind mounts for the build: the site's environment variables as a script, its files, its cache, and this
    repository, for the image's test.

    The image does not contain them.
    """
    if name == "base":  # the mount points do not exist yet
        yield []
        return
    with tempfile.NamedTemporaryFile("w", prefix="site-", suffix=".sh", dir=site.tmp) as script:
        environment = {"UV_LINK_MODE": "copy", "UV_CACHE_DIR": "/opt/cache"} | site.environment
        script.writelines(f"export {key}='{value}'\n" for key, value in environment.items())
        script.flush()
        binds = [f"{script.name}:/opt/site.sh:ro", f"{Path.cwd()}:/opt/source:ro", *site.bind]
        if site.cache:
            cache = Path(site.cache).expanduser()
            cache.mkdir(parents=True, exist_ok=True)
            binds.append(f"{cache}:/opt/cache")
        yield binds


@contextmanager
def _environment(site: Images) -> Iterator[None]:
    """Build in the site's temporary directory."""
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
