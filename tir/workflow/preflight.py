"""Checks before a long run: they take seconds on the login node, allocate no GPU, and print one table with remedies."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from tir.common.errors import ConfigError, InfrastructureFault
from tir.common.http import Unsendable, ask_once, json_object
from tir.common.keys import HUB, Redaction, read_key
from tir.common.records import file_digest
from tir.workflow.findings import TIMEOUT_S, Finding, run
from tir.workflow.gpu_checks import architectures, devices, drivers
from tir.workflow.gres import parse_gres

COMMIT = re.compile(r"[0-9a-f]{40}")


def preflight(requirements: dict[str, Any], directory: str | os.PathLike = ".") -> list[Finding]:
    """Run all checks concurrently.

    Args:
        requirements: `stages` [{rule, partition, gres, cpus, memory_mb, most_memory_mb, needs_gpu}], `slurm`,
            `containers`, `disk_gb`,
            `sources` [{name, path (in the workflow), kind, repo, revision, url, sha256, origin}], `tokens` [names of
            environment variables], `endpoint` (URL of the retrieval server, or "none"), `hardware`, `locks` [paths],
            `sbatch` (options of `sbatch` for the run's retrieval server, or None), `gpus` (of this machine, for jobs; 0
            on a cluster), `server_gpus` (those of a retrieval server here, as in CUDA_VISIBLE_DEVICES).
        directory: the workflow's directory.
    """
    checks: list[Callable[[], Iterable[Finding]]] = [
        lambda: disk(requirements["disk_gb"], directory),
        lambda: sources(requirements["sources"]),
        lambda: tokens(requirements["tokens"]),
        lambda: ports(requirements["endpoint"]),
    ]
    if requirements["slurm"]:
        checks.append(lambda: cluster(requirements["stages"]))
    if requirements["sbatch"] is not None:
        checks.append(lambda: server_job(requirements["sbatch"]))
    if requirements["containers"]:
        checks.append(container_tool)
    if requirements["hardware"] == "cuda":
        checks.append(lambda: architectures(requirements["stages"], requirements["locks"]))
        checks.append(lambda: drivers(requirements["stages"], requirements["locks"], requirements["slurm"]))
    if requirements["gpus"] and any(stage["gres"] for stage in requirements["stages"]):
        checks.append(lambda: devices(requirements["gpus"], requirements["server_gpus"]))
    with ThreadPoolExecutor(len(checks)) as pool:
        return [finding for found in pool.map(lambda check: list(check()), checks) for finding in found]


# --- the checks -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    partition: str
    gpus: dict[str, int]
    cpus: int
    memory_mb: int


def nodes() -> list[Node]:
    """Node types of the cluster, one entry per partition and type."""
    done = run(["sinfo", "-h", "-e", "-o", "%R|%G|%c|%m"])
    found = []
    for line in done.stdout.splitlines():
        partition, gres, cpus, memory = line.split("|")[:4]
        gpus: dict[str, int] = {}
        for kind, number in re.findall(r"gpu:(?:([\w.-]+):)?(\d+)", gres):
            gpus[kind or "any"] = gpus.get(kind or "any", 0) + int(number)
        found.append(Node(partition, gpus, int(cpus.rstrip("+")), int(memory.rstrip("+"))))
    return found


def cluster(stages: list[dict[str, Any]]) -> Iterable[Finding]:
    """Slurm responds, and each stage's partition has a node with the GPUs, CPUs and memory that one job requests."""
    if not shutil.which("sbatch"):
        yield Finding("Slurm", False, "sbatch not found", "run this on a login node, or use --profile profiles/laptop")
        return
    try:
        available = nodes()
    except InfrastructureFault as error:
        yield Finding("Slurm", False, str(error).splitlines()[0], "run `sinfo` and fix its error")
        return
    partitions = sorted({node.partition for node in available})
    yield Finding("Slurm", True, f"partitions {', '.join(partitions)}")
    for stage in stages:
        name, partition = f"nodes for {stage['rule']}", stage["partition"]
        kind, number = parse_gres(stage["gres"])
        candidates = [node for node in available if node.partition == partition]
        line = f"in the profile, set-resources: {stage['rule']}"
        if stage.get("needs_gpu") and not stage["gres"]:
            yield Finding(name, False, "requests no GPU, but device is cuda", f"{line}: gres, e.g. \"'gpu:h100:1'\"")
            continue
        if not candidates:
            yield Finding(
                name, False, f"no partition {partition}", f"{line}: slurm_partition, one of {', '.join(partitions)}"
            )
            continue
        if number:
            candidates = [
                node
                for node in candidates
                if node.gpus.get(kind, 0) >= number or (kind == "any" and sum(node.gpus.values()) >= number)
            ]
            if not candidates:
                types = sorted({f"{key}:{value}" for node in available for key, value in node.gpus.items()})
                yield Finding(
                    name,
                    False,
                    f"no node of {partition} has {stage['gres']}",
                    f"{line}: gres; this cluster has {', '.join(types) or 'no GPUs'}",
                )
                continue
        memory_mb = max(stage["memory_mb"], stage.get("most_memory_mb", 0))
        fitting = [node for node in candidates if node.cpus >= stage["cpus"] and node.memory_mb >= memory_mb]
        attempt = " in the last attempt" if memory_mb > stage["memory_mb"] else ""
        requested = f"{stage['gres'] or 'no GPU'}, {stage['cpus']} CPUs, {memory_mb / 1000:.0f} GB{attempt}"
        most_mb = max(node.memory_mb for node in candidates)
        memory = f"mem_mb, e.g. min({stage['memory_mb']} * attempt, {most_mb})" if attempt else "mem_mb"
        most_cpus = max(node.cpus for node in candidates)
        yield Finding(
            name,
            bool(fitting),
            f"{partition}: {requested}"
            if fitting
            else f"requests {requested}; such nodes have at most {most_cpus} CPUs, {most_mb / 1000:.0f} GB",
            f"{line}: {memory}, or set-threads",
        )


def server_job(options: list[str]) -> Iterable[Finding]:
    """Slurm would accept the job of the run's retrieval server."""
    done = run(["sbatch", "--test-only", *options, "--wrap=true"], check=False)
    yield Finding(
        "retrieval server",
        done.returncode == 0,
        " ".join(options) if done.returncode == 0 else done.stderr.strip()[:200],
        "in profiles/slurm/site.yaml, site.retrieval_server: sbatch; or runs_on: none",
    )


def container_tool() -> Iterable[Finding]:
    """Apptainer is installed, and this user may create user namespaces."""
    tool = shutil.which("apptainer") or shutil.which("singularity")
    if not tool:
        yield Finding(
            "container tool", False, "neither apptainer nor singularity found", "module load apptainer, or install it"
        )
    else:
        done = run([tool, "--version"], check=False)
        yield Finding(
            "container tool",
            done.returncode == 0,
            done.stdout.strip() or done.stderr.strip()[:120],
            "ldd $(which apptainer)",
        )
    done = run(["unshare", "--user", "--map-root-user", "true"], check=False)
    yield Finding(
        "user namespaces",
        done.returncode == 0,
        "work" if done.returncode == 0 else done.stderr.strip()[:120],
        "ask the administrators for sysctl user.max_user_namespaces > 0",
    )


def disk(need_gb: float, directory: str | os.PathLike) -> Iterable[Finding]:
    """Free space on the file system, and in the user's quotas if `quota` reports any."""
    free = shutil.disk_usage(directory).free / 1e9
    yield Finding(
        "disk",
        free >= need_gb,
        f"{free:,.0f} GB free, {need_gb:,.0f} GB needed",
        "free space, or run in a clone on a larger file system",
    )
    if shutil.which("quota"):
        done = run(["quota", "-w", "-p"], check=False)
        for line in done.stdout.splitlines():
            fields = line.split()
            if len(fields) > 3 and fields[1].rstrip("*").isdigit() and int(fields[3]):
                left = (int(fields[3]) - int(fields[1].rstrip("*"))) / 1e6
                yield Finding(
                    f"quota {fields[0]}",
                    left >= need_gb,
                    f"{left:,.0f} GB left, {need_gb:,.0f} GB needed",
                    "delete files, have the quota raised, or run in a clone on another file system",
                )


def sources(needed: list[dict[str, Any]]) -> Iterable[Finding]:
    """Existing files match their checksums; for missing ones, the local path exists or the host responds."""
    hosts: dict[str, list[dict[str, Any]]] = {}
    for source in needed:
        path = Path(source["path"])
        if path.exists():
            if source.get("sha256") and path.is_file():
                good = file_digest(path).startswith(source["sha256"])
                yield Finding(
                    f"file {source['name']}",
                    good,
                    "exists, checksum matches" if good else "exists, but its checksum differs",
                    f"rm {path}  # the workflow then fetches it again",
                )
        elif source["kind"] == "local":
            there = Path(source["origin"]).exists()
            yield Finding(
                f"source {source['name']}",
                there,
                f"{source['origin']} {'exists' if there else 'does not exist'}",
                "correct its path in config.yaml",
            )
        elif source["kind"] in ("hub", "url"):
            address = _hub() if source["kind"] == "hub" else source["url"]
            hosts.setdefault("{0.scheme}://{0.netloc}".format(urlsplit(address)), []).append(source)
    for host, asked in hosts.items():
        names = [source["name"] for source in asked]
        some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        try:
            ask_once("HEAD", host, TIMEOUT_S)
            yield Finding(urlsplit(host).netloc, True, f"responds ({some})")
            with ThreadPoolExecutor(4) as pool:
                yield from pool.map(repository, (each for each in asked if each["kind"] == "hub"))
        except httpx.HTTPError as error:
            remedy = "set HTTPS_PROXY, or put the files in place: `snakemake -n` names them"
            if isinstance(error, Unsendable):
                remedy = error.remedy
            found = f"{type(error).__name__}: {error}; needed for {some}"
            yield Finding(urlsplit(host).netloc, False, found, remedy)


def _hub() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def repository(source: dict[str, Any]) -> Finding:
    """A repository on the hub is accessible; for a branch, its commit and how to pin it."""
    name, revision = source["name"], source.get("revision") or "main"
    kind = "models" if name.startswith("models/") else "datasets"
    token = read_key(HUB)
    reply = ask_once(
        "GET",
        f"{_hub()}/api/{kind}/{source['repo']}/revision/{revision}",
        TIMEOUT_S,
        headers={"Authorization": f"Bearer {token.get_secret_value()}"} if token else {},
        redirects=True,
    )
    if reply.status_code != 200:
        remedy = "correct repo and revision in config.yaml; for a private or gated repository export HF_TOKEN=..."
        return Finding(f"source {name}", False, f"{source['repo']} at {revision}: status {reply.status_code}", remedy)
    found = f"{source['repo']} at {revision}"
    if not COMMIT.fullmatch(revision):
        commit = Redaction(token).in_answer(json_object(reply)).get("sha")
        found += f", not pinned; the first fetch keeps its commit. To pin it: revision: {commit}"
    return Finding(f"source {name}", True, found)


def tokens(names: list[str]) -> Iterable[Finding]:
    """Access tokens are set as environment variables, or for jobs in images as `APPTAINERENV_NAME`."""
    for name in names:
        # Downloads run outside the images, so HF_TOKEN itself must be set.
        variables = [name] if name == HUB else [name, f"APPTAINERENV_{name}"]
        try:
            there = any(map(read_key, variables))
            yield Finding(name, there, "set" if there else "not set", f"export {variables[-1]}=...")
        except ConfigError as error:
            yield Finding(name, False, f"{error.what}: {error.why}", error.remedy)


def ports(endpoint: str) -> Iterable[Finding]:
    """The site's retrieval server is healthy; without one, a job can open a local port for its own server."""
    if endpoint == "none":
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", 0))
                yield Finding("ports", True, "a local port can be opened for the retrieval server")
            except OSError as error:
                yield Finding("ports", False, str(error), "ip link set lo up")
        return
    try:
        good = json_object(ask_once("GET", f"{endpoint}/health", TIMEOUT_S, proxies=False)).get("status") == "healthy"
        found = "healthy" if good else f"{endpoint}/health does not report status healthy"
    except httpx.HTTPError as error:
        good, found = False, f"{endpoint}: {type(error).__name__}"
    yield Finding("retrieval server", good, found, "start it, or set site.retrieval_endpoint: none in the profile")
