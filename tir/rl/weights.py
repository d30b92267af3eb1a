"""Weights from trainer to rollout engine, through a socket in the run's own directory.

verl names the socket after Ray's job number, which is the first one in every Ray instance, and puts it into /tmp: two runs on one
machine would take each other's weights without an error. Both ends are verl's classes with another address.
"""

from __future__ import annotations

import os

from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension
from verl.workers.rollout.vllm_rollout.vllm_rollout import ServerAdapter as VerlServerAdapter


def own_socket(address: str) -> str:
    """The same socket name in the run's scratch directory (environment variable TIR_SCRATCH)."""
    return f"ipc://{os.environ['TIR_SCRATCH']}/{address.rsplit('/', 1)[1]}"


class ServerAdapter(VerlServerAdapter):
    """The sender, in the trainer's worker; verl finds it in its registry of rollouts (see `tir.rl.plugin`)."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.zmq_handle = own_socket(self.zmq_handle)


class WorkerExtension(vLLMColocateWorkerExtension):
    """The receiver, in vLLM's worker; vLLM takes it by `worker_extension_cls`."""

    def _get_zmq_handle(self) -> str:
        return own_socket(super()._get_zmq_handle())
