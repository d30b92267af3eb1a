"""The batches of a step: groups of equal rewards are kept, dropped or replaced (a queue in memory in verl's place)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from verl.trainer.ppo.v1 import replay_buffer

from tir.common.errors import InfrastructureFault
from tir.rl import sampler
from tir.rl.sampler import MOST_BATCHES, EqualRewardsError, OrderedReplayBuffer

MIXED, EQUAL = [0.0, 1.0], [1.0, 1.0]


class Queue:
    """verl's queue, and its trainer as far as a buffer calls it: draws prompts whose rewards are given."""

    def __init__(self, rewards: list[list[float]]):
        self.waiting, self.rows, self.drawn = list(enumerate(rewards)), {}, []

    def draw(self, count: int) -> int:
        self.drawn.append(count)
        for _ in range(count):
            number, rewards = self.waiting.pop(0)
            # One prompt ends at each look, the last one first: not in the order of drawing.
            self.rows[f"u{number}"] = {"is_prompt": True, "status": "running", "global_steps": 1}
            for member, reward in enumerate(rewards):
                self.rows[f"u{number}_{member}_0"] = {"index": number, "reward": reward}
        return count

    def kv_list(self) -> dict:
        running = [row for row in self.rows.values() if row.get("status") == "running"]
        for row in running[-1:]:
            row["status"] = row.get("end", "finished")
        return {"train": {name: dict(row) for name, row in self.rows.items()}}

    def kv_batch_get(self, keys, partition_id, select_fields):
        [name] = select_fields
        rows = [self.rows[key] for key in keys]
        return {name: [torch.tensor([0.0, row["reward"]]) if name == "rm_scores" else row["index"] for row in rows]}

    def kv_clear(self, keys, partition_id):
        for key in keys:
            self.rows.pop(key, None)


@pytest.fixture
def buffer(monkeypatch):
    """`buffer(mode, rewards, batch)` is a buffer that has drawn a batch, and its queue."""

    class Batch(SimpleNamespace):
        def reorder(self, order):
            self.keys = [self.keys[position] for position in order]

    def make(mode: str, rewards: list[list[float]], batch: int):
        queue = Queue(rewards)
        monkeypatch.setattr(replay_buffer, "tq", queue)
        monkeypatch.setattr(replay_buffer, "KVBatchMeta", Batch)
        monkeypatch.setattr(sampler, "transfer_queue", queue)
        monkeypatch.setattr(sampler, "_POLL_SECONDS", 0.0)
        made = OrderedReplayBuffer(
            trainer_mode="sync",
            trainer_config={},
            max_off_policy_threshold=8,
            max_off_policy_strategy="drop",
            sampler_kwargs={"zero_variance_groups": mode},
            refill_fn=queue.draw,
        )
        queue.draw(batch)
        return made, queue

    return make


def rows_of(batch) -> list[int]:
    return [int(key[1:].partition("_")[0]) for key in batch.keys]


REWARDS = [EQUAL, MIXED, EQUAL, MIXED, MIXED, MIXED, EQUAL, MIXED, MIXED]


@pytest.mark.parametrize(
    ("mode", "rows", "drawn", "counts"),
    [
        ("keep", [0, 1, 2, 3], [4], {}),
        ("drop", [1, 3], [4], {"evicted_samples": 2}),
        # Two are missing, so four are drawn: one of them is equal too, and one is left over.
        ("resample", [1, 3, 4, 5], [4, 4], {"evicted_samples": 3, "discarded_surplus_samples": 1}),
    ],
)
def test_groups_of_equal_rewards_are_kept_dropped_or_replaced(buffer, mode, rows, drawn, counts):
    made, queue = buffer(mode, REWARDS, 4)
    batch, metrics = made.sample(1, "train", 4)
    assert rows_of(batch) == [row for row in rows for _ in range(2)] and queue.drawn == drawn
    assert metrics == {f"training/filter_groups/{name}": value for name, value in counts.items()}
    assert sorted(queue.rows) == sorted(batch.keys)  # nothing of the other groups is left


@pytest.mark.parametrize("mode", ["drop", "resample"])
def test_a_step_whose_rewards_are_all_equal_draws_further_prompts_but_not_for_ever(buffer, mode):
    made, queue = buffer(mode, [EQUAL] * 4 + [MIXED] * 8, 4)
    batch, _ = made.sample(1, "train", 4)
    assert rows_of(batch) == [4, 4, 5, 5, 6, 6, 7, 7] and queue.drawn == [4, 8 if mode == "resample" else 4]
    made, queue = buffer(mode, [EQUAL] * 100, 4)
    with pytest.raises(EqualRewardsError, match="0 of .* prompts.*zero_variance_groups: keep"):
        made.sample(1, "train", 4)
    assert 4 * MOST_BATCHES <= sum(queue.drawn) <= 4 * MOST_BATCHES + 8


@pytest.mark.parametrize("mode", ["keep", "drop", "resample"])
def test_a_failed_trajectory_ends_the_step(buffer, mode, tmp_path, monkeypatch):
    monkeypatch.setenv("TIR_RUN_DIRECTORY", str(tmp_path))
    made, queue = buffer(mode, [MIXED] * 4, 4)
    queue.rows["u2"]["end"] = "failure"
    with pytest.raises(InfrastructureFault, match="a trajectory failed"):
        made.sample(1, "train", 4)
