"""Replay buffer that returns complete, sorted batches; verl loads it by `trainer.v1.sampler.custom_sampler`.

verl's own replay buffer polls every two seconds, returns trajectories in the order in which they finished, and trains
on the rest of a batch if a trajectory failed.

A group whose rewards are all equal has no advantage in GRPO. verl finds such groups (`algorithm.filter_groups`, as in
DAPO), but hands its settings to its own buffer only. They are taken from `trainer.v1.sampler.sampler_kwargs` here.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import Counter
from pathlib import Path

import transfer_queue
from verl.trainer.ppo.v1.replay_buffer import FILTER_GROUPS_REWARD_METRIC, ReplayBuffer

from tir.common.errors import InfrastructureFault, TirError

_POLL_SECONDS = 0.02
MOST_BATCHES = 10  # prompts drawn for one step, in batches


class EqualRewardsError(TirError):
    """Too few groups of a step have rewards that differ."""


class OrderedReplayBuffer(ReplayBuffer):
    """verl's synchronous replay buffer, except that it polls every 20 ms, sorts batches, and raises on a failure.

    Its setting `zero_variance_groups` in `sampler_kwargs` is `rl.zero_variance_groups`.
    """

    def __init__(self, *arguments, **keywords):
        self._equal = keywords["sampler_kwargs"].get("zero_variance_groups", "keep")
        changed = {"poll_interval": _POLL_SECONDS}
        if self._equal != "keep":
            changed["filter_groups_metric"] = FILTER_GROUPS_REWARD_METRIC
        super().__init__(*arguments, **{**keywords, **changed})

    def sample(self, global_steps: int, partition_id: str, batch_size: int):
        """See verl; without the groups of equal rewards if they are dropped or replaced.

        verl replaces groups while others are generated, so which ones depends on their times. Here all trajectories end
        first, and the prompts drawn depend on the rewards alone.

        Raises `EqualRewardsError` if there are too few other groups among `MOST_BATCHES` batches of prompts.
        """
        if partition_id == "val" or self._equal == "keep":
            return super().sample(global_steps, partition_id, batch_size)
        least = batch_size if self._equal == "resample" else 1
        drawn, metrics = batch_size, Counter()
        while True:
            reasons = self._when_all_have_ended(global_steps, partition_id)
            *_, evicted = self._evict_terminal_groups(global_steps, partition_id, reasons)
            metrics.update({name: value for name, value in evicted.items() if isinstance(value, int)})
            kept = self._sampleable_terminal_keys(partition_id, reasons)
            if len(kept) >= least:
                break
            if drawn >= MOST_BATCHES * batch_size:
                raise _too_equal(len(kept), least, drawn)
            more = 2 * (least - len(kept)) if self._equal == "resample" else batch_size  # twice as many, as verl does
            self.refill_fn(more)
            drawn += more
        in_order_of_drawing = [uid for uid in self.prompt_global_steps[partition_id] if uid in kept]
        chosen, surplus = in_order_of_drawing[:batch_size], in_order_of_drawing[batch_size:]
        self._clear_groups(partition_id, set(surplus))
        if surplus:
            metrics["training/filter_groups/discarded_surplus_samples"] = len(surplus)
        return self._materialize_batch(partition_id, chosen, self.partitions[partition_id]), dict(metrics)

    def _when_all_have_ended(self, global_steps: int, partition_id: str):
        while True:
            self._sync_metadata_from_transfer_queue()
            reasons = self._terminal_eviction_reasons(global_steps, partition_id)
            if not self.pending_keys[partition_id] and not self.running_keys[partition_id]:
                return reasons
            time.sleep(_POLL_SECONDS)

    def _terminal_eviction_reasons(self, global_steps: int, partition_id: str):
        # verl calls this at each poll. A trajectory fails because of the infrastructure or a bug, never because of the
        # model. Training on the others would bias the batch.
        if self.failure_keys[partition_id]:
            raise run_fault()
        return super()._terminal_eviction_reasons(global_steps, partition_id)

    def _materialize_batch(self, partition_id: str, selected_prompt_uids, partition_snapshot):
        """Sort by row and group member, so that sums over the batch do not depend on the order of completion."""
        batch = super()._materialize_batch(partition_id, selected_prompt_uids, partition_snapshot)
        rows = transfer_queue.kv_batch_get(keys=batch.keys, partition_id=partition_id, select_fields=["index"])
        indices = [int(getattr(index, "data", index)) for index in rows["index"]]
        sort_key = {
            key: (index, *map(int, key.rsplit("_", 2)[1:])) for key, index in zip(batch.keys, indices, strict=True)
        }
        order = sorted(range(len(batch.keys)), key=lambda position: sort_key[batch.keys[position]])
        batch.reorder(order)
        return batch


def _too_equal(kept: int, least: int, drawn: int) -> EqualRewardsError:
    return EqualRewardsError(
        "too few groups have rewards that differ",
        where="rl.zero_variance_groups",
        why=f"{kept} of {drawn} prompts, and a step needs {least}; write `rl: {{zero_variance_groups: keep}}`, or take "
        "other rows or a larger rl.group_size",
    )


def run_fault() -> InfrastructureFault:
    """The error that the agent loop wrote to `fault.json`."""
    cause = {"type": "unknown", "text": "see verl.log"}
    with contextlib.suppress(OSError, ValueError):
        cause = json.loads((Path(os.environ["TIR_RUN_DIRECTORY"]) / "fault.json").read_text(encoding="utf-8"))
    return InfrastructureFault(
        "a trajectory failed, so the step has no complete batch",
        where="rollout",
        why=f"{cause['type']}: {cause['text']}",
    )
