"""Run a command on GPUs that no other job of this user has: `with_gpus COUNT COMMAND...`; waits until they are free.

It takes none of TIR_SERVER_GPUS: the workflow states there the GPUs of the run's retrieval server.
"""

from __future__ import annotations

import os
import sys

from tir.common import cli
from tir.common.devices import claim, lock_directory, visible_devices, without


def main() -> None:
    count, command = int(sys.argv[1]), sys.argv[2:]
    devices = without(visible_devices(), os.environ.get("TIR_SERVER_GPUS", "")) if count else []
    held = claim(count, devices, lock_directory())
    for file in held.values():
        os.set_inheritable(file, True)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(held)
    if held:
        print(f"GPUs: {os.environ['CUDA_VISIBLE_DEVICES']}", file=sys.stderr, flush=True)
    os.execvp(command[0], command)


if __name__ == "__main__":
    cli.run(main)
