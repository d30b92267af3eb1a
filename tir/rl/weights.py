"""Send weights from the trainer to the rollout engine through a socket in the run's scratch directory.

verl puts the socket into /tmp and names it after Ray's job number, which is the same in every new Ray instance: two
runs on one machine would silently load each other's weights. Sender and receiver are verl's classes with another
address.

verl sends the weights in buckets, and with them the output embeddings that a model ties to its input embeddings. If the
two come in different buckets, vLLM 0.32 takes the input embeddings for missing. So the output embeddings are not sent.

After an error in the receiver, verl's sender would wait for an answer until the run's stall limit. Here it gives up.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import zmq
from verl.workers.rollout.utils import ensure_async_iterator
from verl.workers.rollout.vllm_rollout import vllm_rollout
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightSender
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension
from verl.workers.rollout.vllm_rollout.vllm_rollout import ServerAdapter as VerlServerAdapter

ANSWER_S = 600  # the receiver copies one bucket, at most 2 GB, before it answers


class Sender(BucketedWeightSender):
    """verl's sender, with a limit on the time for an answer, after which it raises `zmq.Again`."""

    def _init_socket(self) -> None:
        super()._init_socket()
        for option in (zmq.RCVTIMEO, zmq.SNDTIMEO):
            self.socket.setsockopt(option, int(1000 * ANSWER_S))


vllm_rollout.BucketedWeightSender = Sender


def own_socket(address: str) -> str:
    """Address of the socket in the run's scratch directory (environment variable TIR_SCRATCH)."""
    return f"ipc://{os.environ['TIR_SCRATCH']}/{address.rsplit('/', 1)[1]}"


async def without_tied(weights: Any, tied: bool) -> AsyncIterator[tuple[str, Any]]:
    """The (name, tensor) pairs of an iterator, without `lm_head.weight` if it is `tied` to the input embeddings."""
    async for name, tensor in ensure_async_iterator(weights):
        if not (tied and name == "lm_head.weight"):
            yield name, tensor


class ServerAdapter(VerlServerAdapter):
    """The sender, in the trainer's worker; registered with verl by `tir.rl.plugin`."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.zmq_handle = own_socket(self.zmq_handle)

    async def update_weights(self, weights: Any, *arguments, **keywords) -> None:
        tied = bool(getattr(self.model_config.hf_config, "tie_word_embeddings", False))
        await super().update_weights(without_tied(weights, tied), *arguments, **keywords)


class WorkerExtension(vLLMColocateWorkerExtension):
    """The receiver, in vLLM's worker; selected by vLLM's option `worker_extension_cls`."""

    def _get_zmq_handle(self) -> str:
        return own_socket(super()._get_zmq_handle())
