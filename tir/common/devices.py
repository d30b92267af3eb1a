"""GPUs for the jobs of one machine: each job gets its own devices, for as long as it runs.

Snakemake counts GPUs (`--resources gpu=4`) but does not say which ones a job may use. Here a job locks one file per
device. The lock belongs to an open file that the job's process inherits, so it ends with the process, however that
ends. All runs of a user on a machine share the files.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tir.common.errors import ConfigError, InfrastructureFault


def visible_devices() -> list[str]:
    """The machine's GPUs, by the names that `CUDA_VISIBLE_DEVICES` takes; only those listed there, if it is set."""
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    if stated is not None:
        return [name.strip() for name in stated.split(",") if name.strip()]
    return [uuid for _, uuid in _listed()]


def without(devices: Sequence[str], taken: str) -> list[str]:
    """The devices that are not in `taken`, a value of `CUDA_VISIBLE_DEVICES`; either may state an index or a UUID."""
    names = {name.strip() for name in taken.split(",") if name.strip()}
    if not names:
        return list(devices)
    listed = _listed()

    def uuid(name: str) -> str:  # CUDA also takes the beginning of a UUID
        return next((uuid for index, uuid in listed if name == index or uuid.startswith(name)), name)

    used = {uuid(name) for name in names}
    return [name for name in devices if uuid(name) not in used]


def _listed() -> list[tuple[str, str]]:
    """Index and UUID of each GPU of the machine."""
    command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        why = getattr(error, "stderr", None) or str(error)
        raise InfrastructureFault(
            "cannot list the GPUs of this machine",
            where=" ".join(command),
            why=why.strip(),
            remedy="nvidia-smi  # must list the GPUs; otherwise install the driver, or use --profile profiles/laptop",
        ) from None
    rows = (line.partition(",") for line in done.stdout.splitlines() if line.strip())
    return [(index.strip(), uuid.strip()) for index, _, uuid in rows]


def lock_directory() -> Path:
    """Folder of the lock files of this user on this machine."""
    return Path(tempfile.gettempdir()) / f"tir-gpus-{os.getuid()}"


def claim(count: int, devices: Sequence[str], directory: Path) -> dict[str, int]:
    """Lock `count` devices; waits until as many are free.

    Only one process waits for devices at a time, and the others queue behind it. Otherwise two jobs could each hold a
    part of what both need.

    Args:
        count: number of devices.
        devices: names of the devices.
        directory: folder of the lock files.

    Returns:
        Device -> descriptor of its locked file. Closing it, or the end of all processes that have it, frees the device.

    Raises:
        ConfigError: there are fewer devices.
    """
    if count > len(devices):
        raise ConfigError(
            "fewer GPUs than a job asks for",
            where="profile: resources",
            why=f"the job asks for {count}; this machine shows {len(devices)}",
            remedy=f"resources: [gpu={len(devices)}]",
        )
    if not count:
        return {}
    directory.mkdir(mode=0o700, exist_ok=True)
    held: dict[str, int] = {}
    turn = _open(directory / "turn")
    fcntl.flock(turn, fcntl.LOCK_EX)
    while len(held) < count:
        for name in devices:
            if name not in held and len(held) < count:
                file = _open(directory / f"{name}.lock")
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    held[name] = file
                except BlockingIOError:
                    os.close(file)
        if len(held) < count:
            time.sleep(0.5)
    os.close(turn)
    return {name: held[name] for name in devices if name in held}


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
