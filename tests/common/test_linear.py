"""The linear layer whose rows do not depend on the number of rows."""

import pytest
import torch
from support.repeatable import need_independent_rows, rows_are_independent
from torch import nn
from torch.nn import functional

from tir.common import linear
from tir.common.environment import ARITHMETIC


@pytest.mark.parametrize("shape", [(6,), (1, 6), (3, 6), (1, 1, 6), (2, 5, 6), (0, 6)])
@pytest.mark.parametrize("bias", [None, torch.arange(4.0)])
def test_it_is_the_linear_map(shape, bias):
    states, weight = torch.randn(shape), torch.randn(4, 6)
    found = linear.linear(states, weight, bias)
    assert found.shape == (*shape[:-1], 4)
    torch.testing.assert_close(found, functional.linear(states, weight, bias))


def test_a_model_computes_with_it_and_reads_its_present_weights():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4, bias=False))
    states = torch.randn(1, 6)
    linear.use_in(model)
    with torch.no_grad():
        model[0].weight.mul_(2)
        expected = functional.linear(functional.linear(states, model[0].weight, model[0].bias).relu(), model[2].weight)
        torch.testing.assert_close(model(states), expected)


def test_rows_have_the_same_bits_in_products_of_all_sizes():
    need_independent_rows()
    _, ours = rows_are_independent(**ARITHMETIC)
    assert ours
