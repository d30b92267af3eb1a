"""The batch a step trains on: complete, ordered, and taken as soon as it is there.

verl's own replay buffer looks for finished prompts every two seconds, returns trajectories in the order in which they
happened to finish, and, when a trajectory failed, trains on the rest of the batch. Loaded through verl's
`trainer.v1.sampler.custom_sampler`.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import transfer_queue
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from tir.errors import InfrastructureFault

_POLL_SECONDS = 0.02


class OrderedReplayBuffer(ReplayBuffer):
    """verl's synchronous replay buffer with a short poll, an order, and no tolerance for failed trajectories."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **{**keywords, "poll_interval": _POLL_SECONDS})

    def _terminal_eviction_reasons(self, global_steps: int, partition_id: str):
        # Called at every poll. A failed trajectory is an infrastructure fault or a defect, never data: a batch without it
        # would be biased towards what did not fail.
        if self.failure_keys[partition_id]:
            raise run_fault()
        return super()._terminal_eviction_reasons(global_steps, partition_id)

    def _materialize_batch(self, partition_id: str, selected_prompt_uids, partition_snapshot):
        """Sort by row and member of the group: sums over the batch then have one order, whoever finished first."""
        batch = super()._materialize_batch(partition_id, selected_prompt_uids, partition_snapshot)
        rows = transfer_queue.kv_batch_get(keys=batch.keys, partition_id=partition_id, select_fields=["index"])
        indices = [int(getattr(index, "data", index)) for index in rows["index"]]
        place = {key: (index, *map(int, key.rsplit("_", 2)[1:])) for key, index in zip(batch.keys, indices, strict=True)}
        order = sorted(range(len(batch.keys)), key=lambda position: place[batch.keys[position]])
        batch.reorder(order)
        return batch


def run_fault() -> InfrastructureFault:
    """The cause that the agent loop wrote down, as an error."""
    cause = {"type": "unknown", "text": "see verl.log"}
    with contextlib.suppress(OSError, ValueError):
        cause = json.loads((Path(os.environ["TIR_RUN_DIRECTORY"]) / "fault.json").read_text(encoding="utf-8"))
    return InfrastructureFault("a trajectory failed, so the step has no complete batch", where="rollout",
                               why=f"{cause['type']}: {cause['text']}")
