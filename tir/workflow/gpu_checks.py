"""Checks of the GPUs that a run asks for: PyTorch's wheels support their type, and their driver is new enough."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tir.common.devices import visible_devices, without
from tir.common.errors import InfrastructureFault
from tir.workflow.findings import Finding, run
from tir.workflow.gres import parse_gres

CAPABILITY = {
    "v100": 7.0,
    "t4": 7.5,
    "rtx6000": 7.5,
    "a100": 8.0,
    "a30": 8.0,
    "a10": 8.6,
    "a10g": 8.6,
    "a40": 8.6,
    "l4": 8.9,
    "l40": 8.9,
    "l40s": 8.9,
    "h100": 9.0,
    "h200": 9.0,
    "gh200": 9.0,
    "b200": 10.0,
}
LOWEST = {"cu12": 7.0, "cu13": 7.5}  # lowest compute capability that PyTorch's wheels for that CUDA support
DRIVER = {"cu12": 525, "cu13": 580}  # oldest driver for that CUDA
DRIVER_FILE = Path("/proc/driver/nvidia/version")  # readable on a node without asking for its GPU


def architectures(stages: list[dict[str, Any]], locks: list[str]) -> Iterable[Finding]:
    """The pinned PyTorch wheels support each requested GPU type."""
    kinds = sorted(
        {found[1].lower() for stage in stages if (found := re.fullmatch(r"gpu:([\w.-]+):\d+", stage["gres"] or ""))}
    )
    cuda = _cuda(locks)
    for kind in kinds:
        capability = CAPABILITY.get(kind)
        if capability is None:
            yield Finding(f"GPU {kind}", True, f"not checked: {__name__} does not list its compute capability")
            continue
        good = capability >= LOWEST[cuda]
        yield Finding(
            f"GPU {kind}",
            good,
            f"compute capability {capability}; PyTorch's wheels ({cuda}) need at least {LOWEST[cuda]}",
            "request a newer GPU type in the profile: set-resources, gres",
        )


def devices(stated: int, server: str) -> Iterable[Finding]:
    """This machine has the GPUs that the profile states for jobs, beside those of the run's retrieval server.

    Args:
        stated: GPUs of the profile.
        server: GPUs of the server, as in CUDA_VISIBLE_DEVICES.
    """
    try:
        number = len(without(visible_devices(), server))
    except InfrastructureFault as error:
        yield Finding("GPUs", False, f"{error.what}: {error.why}", error.remedy)
        return
    besides = f" beside {server} of the retrieval server" if server else ""
    yield Finding(
        "GPUs",
        number >= stated,
        f"the profile states {stated}, this machine has {number}{besides}",
        f"in the profile, resources: [gpu={number}, ...]"
        if number
        else "nvidia-smi  # lists the GPUs; without one use --profile profiles/laptop",
    )


def drivers(stages: list[dict[str, Any]], locks: list[str], slurm: bool) -> Iterable[Finding]:
    """The NVIDIA driver suffices for the wheels' CUDA: on this machine, or with Slurm on one free node per GPU type.

    A job of seconds reads the version from a file of the node; it asks for no GPU, and is given up if it has to wait.
    """
    requests = sorted({(stage["partition"], stage["gres"]) for stage in stages if stage["gres"]})
    for partition, gres in requests if slurm else requests[:1]:
        kind = parse_gres(gres)[0] or "any"
        text, why = _driver_of_node(partition, kind) if slurm else _driver_here()
        found = re.search(r"Module.*?\s(\d+)\.\d", text)
        needed = DRIVER[_cuda(locks)]
        name = f"driver of {kind} in {partition}" if slurm else "driver"
        if not found:
            ask = f"on such a node, {DRIVER_FILE} must say {needed} or newer"
            yield Finding(name, slurm, f"not checked ({why}): {ask}", "install the driver, or use --profile laptop")
            continue
        yield Finding(
            name,
            int(found[1]) >= needed,
            f"{found[1]}; PyTorch's wheels ({_cuda(locks)}) need {needed} or newer",
            "have the driver updated, or use nodes with a newer one",
        )


def _driver_here() -> tuple[str, str]:
    try:
        return DRIVER_FILE.read_text(encoding="utf-8"), ""
    except OSError as error:
        return "", f"{DRIVER_FILE}: {error.strerror}"


def _driver_of_node(partition: str, kind: str) -> tuple[str, str]:
    """The driver's version text of a free node with GPUs of a type; empty with a reason if none answers in seconds."""
    done = run(["sinfo", "-h", "-p", partition, "-t", "idle,mix", "-N", "-o", "%N|%G"], check=False)
    listed = [line.partition("|") for line in done.stdout.splitlines()]
    free = [node for node, _, gres in listed if "gpu:" in gres and (kind == "any" or f":{kind}:" in gres)]
    if not free:
        return "", "no such node is free"
    ask = [
        "srun",
        "--immediate=5",
        "-p",
        partition,
        "-w",
        free[0],
        "-n1",
        "-c1",
        "--mem=50",
        "--time=1",
        "-J",
        "driver",
    ]
    done = run([*ask, "cat", str(DRIVER_FILE)], check=False)
    return done.stdout, (done.stderr.strip() or "no answer").splitlines()[-1][:80]


def _cuda(locks: list[str]) -> str:
    new = any(re.search(r"^nvidia-[\w-]*(cu13|runtime==13)", Path(lock).read_text(), re.M) for lock in locks)
    return "cu13" if new else "cu12"
