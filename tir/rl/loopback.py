"""Make torch's stores listen on the loopback address; verl imports this module in each of its processes.

A run uses one machine. Environment variables (`tir.rl.overrides.environment`) restrict Ray, vLLM, gloo and NCCL to it.
The store through which the trainer's processes find each other has no such setting: it listens on all addresses, and
whoever connects can read and write its keys without a password.
"""

from __future__ import annotations

import importlib
import socket

_open: list[socket.socket] = []  # the stores use their sockets until the process ends


def _listen_on_loopback() -> None:
    """Give each store that this process hosts a socket that already listens on the host's own address."""
    # By name: `torch.distributed.rendezvous` is a function as an attribute.
    rendezvous = importlib.import_module("torch.distributed.rendezvous")
    original = rendezvous.TCPStore

    def store(host_name: str, port: int, *arguments, is_master: bool = False, **keywords):
        if is_master and host_name in ("127.0.0.1", "localhost"):
            _open.append(socket.create_server((host_name, port)))
            keywords |= {"master_listen_fd": _open[-1].fileno(), "use_libuv": False}
            port = _open[-1].getsockname()[1]
        return original(host_name, port, *arguments, is_master=is_master, **keywords)

    rendezvous.TCPStore = store


_listen_on_loopback()
