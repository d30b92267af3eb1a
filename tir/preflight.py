"""Checks before a long run: seconds on the login node, no GPU allocated, every failure with its remedy in one table."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from tir.errors import InfrastructureFault
from tir.records import file_digest

TIMEOUT_S = 8.0
CAPABILITY = {"v100": 7.0, "t4": 7.5, "rtx6000": 7.5, "a100": 8.0, "a30": 8.0, "a10": 8.6, "a10g": 8.6, "a40": 8.6,
              "l4": 8.9, "l40": 8.9, "l40s": 8.9, "h100": 9.0, "h200": 9.0, "gh200": 9.0, "b200": 10.0}
LOWEST = {"cu12": 7.0, "cu13": 7.5}  # what PyTorch's wheels for that CUDA were compiled for, at least


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    check: str
    ok: bool
    found: str
    remedy: str = ""


def preflight(need: dict[str, Any], directory: str | os.PathLike = ".") -> list[Finding]:
    """All checks, side by side.

    Args:
        need: `stages` [{rule, partition, gres, cpus, memory_mb, wants_gpu}], `slurm`, `containers`, `disk_gb`, `sources`
            [{name, path (its place here), kind, url, sha256, origin}], `tokens` [names], `endpoint`, `hardware`, `locks` [paths].
        directory: where the workflow runs.
    """
    checks: list[Callable[[], Iterable[Finding]]] = [
        lambda: disk(need["disk_gb"], directory), lambda: sources(need["sources"]), lambda: tokens(need["tokens"]),
        lambda: ports(need["endpoint"])]
    if need["slurm"]:
        checks.append(lambda: cluster(need["stages"]))
    if need["containers"]:
        checks.append(container_tool)
    if need["hardware"] == "cuda":
        checks.append(lambda: architectures(need["stages"], need["locks"]))
    with ThreadPoolExecutor(len(checks)) as pool:
        return [finding for found in pool.map(lambda check: list(check()), checks) for finding in found]


def require(findings: list[Finding]) -> None:
    """Raise `InfrastructureFault` if a check failed; the table has been printed."""
    failed = [finding.check for finding in findings if not finding.ok]
    if failed:
        raise InfrastructureFault("not ready", where="preflight", why=f"{len(failed)} of {len(findings)} checks failed: "
                                  + ", ".join(failed), remedy="do what the table says, then run the same command again")


def table(findings: list[Finding]) -> str:
    """The findings as text, failures with their remedy below."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.check.ljust(width)}  {finding.found}")
        if not finding.ok:
            lines.append(f"      {' ' * width}  try: {finding.remedy}")
    return "\n".join(lines)


# --- the checks -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    partition: str
    gpus: dict[str, int]
    cpus: int
    memory_mb: int


def nodes() -> list[Node]:
    """Kinds of nodes of the cluster, one per partition and kind."""
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
    """Slurm answers, and for each stage some node of its partition holds what one job asks for."""
    if not shutil.which("sbatch"):
        yield Finding("Slurm", False, "no sbatch here", "run this where jobs are submitted, or use --profile profiles/laptop")
        return
    try:
        here = nodes()
    except InfrastructureFault as error:
        yield Finding("Slurm", False, str(error).splitlines()[0], "check `sinfo`")
        return
    partitions = sorted({node.partition for node in here})
    yield Finding("Slurm", True, f"partitions {', '.join(partitions)}")
    for stage in stages:
        name, partition = f"nodes for {stage['rule']}", stage["partition"]
        wanted = re.fullmatch(r"gpu:(?:([\w.-]+):)?(\d+)", stage["gres"] or "")
        own = [node for node in here if node.partition == partition]
        line = f"set-resources: {stage['rule']}: in the profile"
        if stage.get("wants_gpu") and not stage["gres"]:
            yield Finding(name, False, "asks for no GPU, and device is cuda", f"{line}: gres, e.g. \"'gpu:h100:1'\"")
            continue
        if not own:
            yield Finding(name, False, f"no partition {partition}", f"{line}: slurm_partition, one of {', '.join(partitions)}")
            continue
        if wanted:
            kind, number = wanted[1] or "any", int(wanted[2])
            own = [node for node in own if node.gpus.get(kind, 0) >= number or (kind == "any" and sum(node.gpus.values()) >= number)]
            if not own:
                types = sorted({f"{key}:{value}" for node in here for key, value in node.gpus.items()})
                yield Finding(name, False, f"no node of {partition} has {stage['gres']}",
                              f"{line}: gres; this cluster has {', '.join(types) or 'no GPUs'}")
                continue
        fitting = [node for node in own if node.cpus >= stage["cpus"] and node.memory_mb >= stage["memory_mb"]]
        asked = f"{stage['gres'] or 'no GPU'}, {stage['cpus']} CPUs, {stage['memory_mb'] / 1000:.0f} GB"
        largest = f"{max(node.cpus for node in own)} CPUs, {max(node.memory_mb for node in own) / 1000:.0f} GB"
        yield Finding(name, bool(fitting), f"{partition}: {asked}" if fitting else f"asks for {asked}; the largest such node has {largest}",
                      f"{line}: mem_mb, or set-threads")


def container_tool() -> Iterable[Finding]:
    """Apptainer is here and may make user namespaces."""
    tool = shutil.which("apptainer") or shutil.which("singularity")
    if not tool:
        yield Finding("container tool", False, "neither apptainer nor singularity", "module load apptainer, or install it")
    else:
        done = run([tool, "--version"], check=False)
        yield Finding("container tool", done.returncode == 0, done.stdout.strip() or done.stderr.strip()[:120],
                      "ldd $(which apptainer)")
    done = run(["unshare", "--user", "--map-root-user", "true"], check=False)
    yield Finding("user namespaces", done.returncode == 0, "work" if done.returncode == 0 else done.stderr.strip()[:120],
                  "ask the administrators for sysctl user.max_user_namespaces > 0")


def disk(need_gb: float, directory: str | os.PathLike) -> Iterable[Finding]:
    """Space of the file system, and of the user's quota on it where one is reported."""
    free = shutil.disk_usage(directory).free / 1e9
    yield Finding("disk", free >= need_gb, f"{free:,.0f} GB free, {need_gb:,.0f} GB needed",
                  "free space, or run in a clone on a larger file system")
    if shutil.which("quota"):
        done = run(["quota", "-w", "-p"], check=False)
        for line in done.stdout.splitlines():
            fields = line.split()
            if len(fields) > 3 and fields[1].rstrip("*").isdigit() and int(fields[3]):
                left = (int(fields[3]) - int(fields[1].rstrip("*"))) / 1e6
                yield Finding(f"quota {fields[0]}", left >= need_gb, f"{left:,.0f} GB left", "ask for more, or run elsewhere")


def sources(wanted: list[dict[str, Any]]) -> Iterable[Finding]:
    """Files that are there match their checksum; for the others, the host they come from answers."""
    hosts: dict[str, list[str]] = {}
    for source in wanted:
        path = Path(source["path"])
        if path.exists():
            if source.get("sha256") and path.is_file():
                good = file_digest(path).startswith(source["sha256"])
                yield Finding(f"file {source['name']}", good, "there, checksum as expected" if good else "checksum differs",
                              f"rm {path}  # it is fetched anew")
        elif source["kind"] == "local":
            there = Path(source["origin"]).exists()
            yield Finding(f"source {source['name']}", there, f"{source['origin']} is {'there' if there else 'missing'}",
                          "correct its path in config.yaml")
        elif source["kind"] in ("hub", "url"):
            address = os.environ.get("HF_ENDPOINT", "https://huggingface.co") if source["kind"] == "hub" else source["url"]
            hosts.setdefault("{0.scheme}://{0.netloc}".format(urlsplit(address)), []).append(source["name"])
    for host, names in hosts.items():
        some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        try:
            httpx.head(host, timeout=TIMEOUT_S, follow_redirects=False)
            yield Finding(urlsplit(host).netloc, True, f"answers ({some})")
        except httpx.HTTPError as error:
            yield Finding(urlsplit(host).netloc, False, f"{type(error).__name__}; needed for {some}",
                          "set HTTPS_PROXY, or put the files in place: `snakemake -n` names them")


def tokens(names: list[str]) -> Iterable[Finding]:
    for name in names:
        # Downloads run outside the images.
        variables = [name] if name == "HF_TOKEN" else [name, f"APPTAINERENV_{name}"]
        there = any(map(os.environ.get, variables))
        yield Finding(name, there, "set" if there else "not set", f"export {variables[-1]}=...")


def ports(endpoint: str) -> Iterable[Finding]:
    """A standing retrieval server answers; without one, a job's own can listen."""
    if endpoint == "none":
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", 0))
                yield Finding("ports", True, "a job's retrieval server takes a free one")
            except OSError as error:
                yield Finding("ports", False, str(error), "ip link set lo up")
        return
    try:
        good = httpx.get(f"{endpoint}/health", timeout=TIMEOUT_S).json().get("status") == "healthy"
        found = "healthy" if good else "answers, but not as a retrieval server"
    except (httpx.HTTPError, ValueError, AttributeError) as error:
        good, found = False, f"{endpoint}: {type(error).__name__}"
    yield Finding("retrieval server", good, found, "start it, or set site.retrieval_endpoint: none")


def architectures(stages: list[dict[str, Any]], locks: list[str]) -> Iterable[Finding]:
    """Each GPU type is one that PyTorch's pinned wheels were compiled for."""
    kinds = sorted({found[1].lower() for stage in stages if (found := re.fullmatch(r"gpu:([\w.-]+):\d+", stage["gres"] or ""))})
    cuda = "cu13" if any(re.search(r"^nvidia-[\w-]*(cu13|runtime==13)", Path(lock).read_text(), re.M) for lock in locks) else "cu12"
    for kind in kinds:
        capability = CAPABILITY.get(kind)
        if capability is None:
            yield Finding(f"GPU {kind}", True, "architecture not known here; the first job will tell")
            continue
        good = capability >= LOWEST[cuda]
        yield Finding(f"GPU {kind}", good, f"compute capability {capability}, wheels ({cuda}) from {LOWEST[cuda]}",
                      "state a newer GPU type in the profile")


def run(command: list[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        done = subprocess.CompletedProcess(command, 1, "", f"{command[0]}: {error}")
    if check and done.returncode:
        raise InfrastructureFault(f"{command[0]} failed", why=done.stderr.strip()[:200])
    return done
