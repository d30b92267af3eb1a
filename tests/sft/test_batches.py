"""Effective batches: the same rows in every step on any number of GPUs, passes that fit, and the memory they need."""

import random

import pytest

from tir.common.errors import InfrastructureFault
from tir.common.gpus import memory_of_gpus
from tir.sft import memory
from tir.sft.batches import Batches, divide, epoch_order, passes, step_rows

LENGTHS = [random.Random(0).randint(5, 400) for _ in range(300)]
QWEN_3B = memory.shape_of(
    {
        "hidden_size": 2048,
        "num_hidden_layers": 36,
        "intermediate_size": 11008,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    }
)


def run(processes: int, number: int, finished: int = 0) -> list[list[list[int]]]:
    """The batches of each process in the epoch that begins after `finished` steps."""
    return [
        list(
            Batches(
                LENGTHS,
                batch_rows=32,
                seed=7,
                passes=number,
                rank=rank,
                processes=processes,
                step=lambda: finished,
            )
        )
        for rank in range(processes)
    ]


@pytest.mark.parametrize("processes, number", [(1, 1), (1, 5), (4, 1), (8, 3)])
def test_a_step_has_the_same_rows_on_any_number_of_gpus(processes, number):
    epoch = run(processes, number)
    assert {len(batches) for batches in epoch} == {10 * number}  # every process makes the same number of passes
    for step, rows in enumerate(step_rows(300, 7, 0, 32)):
        parts = [part for batches in epoch for part in batches[step * number : (step + 1) * number]]
        trained = [row for part in parts for row in part if row >= 0]
        assert sorted(trained) == sorted(rows)
        assert all(part for part in parts)  # a pass without rows would not reach the collective operations


def test_each_epoch_has_its_own_order_and_each_row_once():
    first, second = (sorted(row for batch in run(1, 1, steps)[0] for row in batch) for steps in (0, 10))
    assert first == second == list(range(300))
    assert epoch_order(300, 7, 0) != epoch_order(300, 7, 1) == epoch_order(300, 8, 0)
    assert run(1, 1, 13) == run(1, 1, 10)  # a run that resumes within its second epoch; the Trainer skips what is done


def test_passes_of_the_same_moment_have_similar_sizes():
    rows = step_rows(300, 7, 0, 128)[0]
    sizes = [sum(LENGTHS[row] for row in part) for part in divide(rows, LENGTHS, 8)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] < 1.02 * sizes[-1]


def test_processes_without_a_row_compute_one_without_loss():
    parts = divide([3, 4], LENGTHS, 4)
    shortest = min((3, 4), key=lambda row: LENGTHS[row])
    assert sorted(parts) == sorted([[3], [4], [~shortest], [~shortest]])


@pytest.mark.parametrize("processes, tokens", [(1, 1000), (1, 100_000), (4, 700), (8, 400)])
def test_no_pass_has_more_tokens_than_fit_and_no_pass_is_superfluous(processes, tokens):
    steps = step_rows(300, 7, 0, 128)
    number = passes(LENGTHS, steps, processes, tokens)
    largest = lambda parts: max(  # noqa: E731
        sum(LENGTHS[row] for row in part) for step in steps for part in divide(step, LENGTHS, processes * parts)
    )
    assert largest(number) <= tokens
    assert number == 1 or largest(number - 1) > tokens


def test_a_row_that_does_not_fit_gets_a_pass_of_its_own():
    assert passes([900, 10, 10, 10], [[0, 1, 2, 3]], 1, 100) == 2
    assert passes([900, 900], [[0, 1]], 1, 100) == 2


def test_the_states_of_3b_parameters_take_sixteen_bytes_each_and_zero_divides_them():
    assert QWEN_3B.parameters == pytest.approx(3.086e9, rel=1e-3)
    for stage, each in ((1, 2 + 2 + 12 / 8), (2, 2 + (2 + 12) / 8), (3, 16 / 8)):
        assert sum(memory.state_bytes(3e9, 8, stage).values()) == pytest.approx(each * 3e9)
    assert sum(memory.state_bytes(3e9, 1, 2).values()) == 16 * 3e9
    assert sum(memory.state_bytes(3e9, 8, 0).values()) == 18 * 3e9  # without DeepSpeed


@pytest.mark.parametrize(
    "gigabytes, processes, least, recompute",
    [
        (85, 8, 16_000, False),
        (85, 4, 15_000, False),
        (85, 1, 4_900, False),
        (42.5, 4, 4096, False),
        (25, 8, 8192, True),
    ],
)
def test_activations_are_recomputed_only_where_memory_requires_it(gigabytes, processes, least, recompute):
    tokens, found = memory.plan_passes(QWEN_3B, gigabytes * 1e9, processes, 2, 4096)
    assert tokens >= least and found == recompute


QWEN3_4B = memory.Shape(4.02e9, 36, 2560, 4096, 9728)
QWEN_7B = memory.Shape(7.62e9, 28, 3584, 3584, 18944)
QWEN_05B = memory.Shape(0.494e9, 24, 896, 896, 4864)


@pytest.mark.parametrize("shape, gigabytes, processes", [(QWEN3_4B, 85, 1), (QWEN_7B, 85, 2), (QWEN3_4B, 51, 2)])
def test_the_copies_of_the_gradients_have_to_fit_too(shape, gigabytes, processes):
    """Of these only the weights, gradients, optimizer and activations fit: the second step would run out of memory."""
    with pytest.raises(InfrastructureFault, match=r"GB while the optimizer updates the weights.*\n.*zero3"):
        memory.plan_passes(shape, gigabytes * 1e9, processes, 2, 4096)


@pytest.mark.parametrize("shape, gigabytes", [(QWEN_3B, 85), (QWEN_05B, 23.7)])
def test_smaller_models_fit_with_the_copies_of_the_gradients(shape, gigabytes):
    assert memory.plan_passes(shape, gigabytes * 1e9, 1, 2, 4096)[0] >= 4096


def test_zero_2_and_3_keep_copies_of_the_gradients_of_their_part():
    def copied(stage: int, processes: int) -> list[float]:
        whole = [sum(parts.values()) for parts in memory.moments(4e9, processes, stage)]
        states = sum(memory.state_bytes(4e9, processes, stage).values())
        return [(whole[0] - states - memory.OVERHEAD_BYTES) / 4e9, (whole[1] - states - 1e9) / 4e9]

    assert copied(2, 1) == pytest.approx([2, 6]) and copied(2, 8) == pytest.approx([2 / 8, 6 / 8])
    assert copied(1, 8) == pytest.approx([0, 6 / 8]) and copied(0, 1) == pytest.approx([0, 0])
    assert copied(3, 8) == pytest.approx([0, 6 / 8]) and copied(3, 1) == pytest.approx([0, 6 / 4])  # 1e9 at a time


def test_a_model_that_does_not_fit_is_refused_with_its_figures():
    with pytest.raises(InfrastructureFault, match=r"1 x 24 GB.*3.09 B parameters.*\n.*gres"):
        memory.plan_passes(QWEN_3B, 24e9, 1, 2, 4096)


def test_a_job_without_a_gpu_says_so(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    memory_of_gpus.cache_clear()
    with pytest.raises(InfrastructureFault, match=r"CUDA_VISIBLE_DEVICES=: no GPU found"):
        memory_of_gpus()
