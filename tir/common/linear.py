"""A linear layer whose rows, on a CPU, do not depend on the number of rows.

In MKL's strict mode (`ARITHMETIC` in `tir/common/environment.py`) a row of a matrix product has the same bits whatever
the other rows are. On processors of AMD this holds from four rows on, so products of fewer rows are computed with four.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional

_ROWS = 4


def linear(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, on a CPU with at least four rows.

    Args:
        states: (..., inputs).
        weight: (outputs, inputs).
        bias: (outputs,).

    Returns:
        (..., outputs).
    """
    rows = states.shape[:-1].numel()
    if rows >= _ROWS or states.device.type != "cpu":
        return functional.linear(states, weight, bias)
    padded = torch.cat([states.reshape(rows, states.shape[-1]), states.new_zeros(_ROWS - rows, states.shape[-1])])
    return functional.linear(padded, weight, bias)[:rows].reshape(*states.shape[:-1], weight.shape[0])


def use_in(model: nn.Module) -> None:
    """Let all linear layers of a model compute with `linear`."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.forward = functools.partial(_forward, layer)


def _forward(layer: nn.Linear, states: Tensor) -> Tensor:
    return linear(states, layer.weight, layer.bias)
