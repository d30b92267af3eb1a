"""Make torch's stores listen on free ports of the loopback address; verl imports this module in each of its processes.

A run uses one machine. Environment variables (`tir.rl.environment`) restrict Ray, vLLM, gloo and NCCL to it.
The store through which the trainer's processes find each other has no such setting: it listens on all addresses, and
whoever connects can read and write its keys without a password.

verl and vLLM pick a port that is free, close it, and open the store seconds later. Until then another process can take
the port. So a store without peers picks its port itself, and verl's driver holds the port of one with peers.
"""

from __future__ import annotations

import importlib
import socket

from tir.common.subprocesses import reserve_port

_open: list[socket.socket] = []  # open until the process ends


def _listen_on_loopback() -> None:
    """Give each store that this process hosts a socket that already listens on the loopback address."""
    # By name: `torch.distributed.rendezvous` is a function as an attribute.
    rendezvous = importlib.import_module("torch.distributed.rendezvous")
    original = rendezvous.TCPStore

    def store(host_name: str, port: int, world_size: int, *arguments, is_master: bool = False, **keywords):
        if is_master and host_name in ("127.0.0.1", "localhost"):
            _open.append(socket.create_server((host_name, 0 if world_size == 1 else port)))
            keywords |= {"master_listen_fd": _open[-1].fileno(), "use_libuv": False}
            port = _open[-1].getsockname()[1]
        return original(host_name, port, world_size, *arguments, is_master=is_master, **keywords)

    rendezvous.TCPStore = store


def hold_ports() -> None:
    """In verl's driver: choose the ports of the workers' stores, and hold them until this process ends."""
    from verl.single_controller.ray.base import RayWorkerGroup

    def choose(group: RayWorkerGroup, *_, **__) -> None:
        if group._master_port is None:
            held, port = reserve_port()
            _open.append(held)
            group._master_addr, group._master_port = "127.0.0.1", str(port)

    RayWorkerGroup._get_master_addr_port = choose


_listen_on_loopback()
