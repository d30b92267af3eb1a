"""The servers of an RL run listen on the loopback address, on ports that no other process can take from them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT
from support.rl_inputs import rl_run, run_files

from tir.rl.environment import environment


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_servers_of_a_run_listen_on_the_loopback_address(device):
    variables = environment(rl_run(device=device), run_files(Path("/r")), 2)
    assert variables["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0" and variables["VLLM_HOST_IP"] == "127.0.0.1"
    assert variables["GLOO_SOCKET_IFNAME"] == variables["NCCL_SOCKET_IFNAME"] == "lo"
    assert variables["RAY_worker_niceness"] == "0" and variables["RAY_AUTH_MODE"] == "token"


def store(port: int) -> subprocess.CompletedProcess:
    """Open a process group without peers, as verl's trainer with one process does; print where it listens."""
    code = (
        "import psutil, tir.rl.loopback, torch.distributed as distributed\n"
        "distributed.init_process_group('gloo')\n"
        "for each in psutil.Process().net_connections(): each.status == 'LISTEN' and print(each.laddr.ip)\n"
        "distributed.destroy_process_group()\n"
    )
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "1", "RANK": "0"}
    variables = environment(rl_run(), run_files(Path("/r")), 2)
    assert variables["VERL_USE_EXTERNAL_MODULES"].split(",")[0] == "tir.rl.loopback"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env={**os.environ, **variables, **world}
    )


def test_the_store_of_the_trainer_listens_on_the_loopback_address():
    done = store(0)
    assert done.returncode == 0 and set(done.stdout.split()) == {"127.0.0.1"}, done.stdout + done.stderr[-2000:]


def test_a_store_starts_though_another_process_has_taken_the_port_that_verl_picked():
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = store(other.getsockname()[1])
    assert done.returncode == 0, done.stderr[-2000:]


def test_verls_driver_holds_the_port_of_several_trainers_until_they_use_it(tmp_path):
    code = """
import os, socket
from types import SimpleNamespace
import tir.rl.loopback, torch.distributed as distributed, torch.multiprocessing as processes
from verl.single_controller.ray.base import RayWorkerGroup

def trainer(rank, port):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": str(rank)}
    distributed.init_process_group("gloo")
    distributed.destroy_process_group()

if __name__ == "__main__":
    tir.rl.loopback.hold_ports()
    group = SimpleNamespace(_master_addr=None, _master_port=None)
    for _ in range(2):  # verl asks again for each process
        RayWorkerGroup._get_master_addr_port(group, None, bundle_index=0)
    port = int(group._master_port)
    try:
        socket.socket().bind(("127.0.0.1", port))
        print("taken by another process")
    except OSError:
        print(group._master_addr, "held", flush=True)
    processes.spawn(trainer, (group._master_port,), nprocs=2)  # raises if one of them fails
    print("both have joined")
"""
    script = tmp_path / "driver.py"  # spawned processes import it
    script.write_text(code)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environ, cwd=ROOT)
    assert done.stdout.splitlines() == ["127.0.0.1 held", "both have joined"], done.stderr[-3000:]
