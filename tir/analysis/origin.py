"""The label of results of a generated world or model: "generated world, 0.8M parameters, 1 seed".

Every table, figure and caption of such a run, and its report, has this label, and none shows a number of the paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tir.analysis.numbers import fixed
from tir.common.model_files import count_parameters


def describe(params: Mapping[str, Any], manifests: Iterable[Path]) -> str:
    """The label; "" for real data and models.

    Args:
        params: `origin`, if anything is generated: {data: what, model: name, seeds: number}.
        manifests: the manifest of the model whose parameters are counted.
    """
    origin = params.get("origin")
    if not origin:
        return ""
    counts = [f"{_millions(count_parameters(manifest.parent))} parameters" for manifest in manifests]
    seeds = f"{origin['seeds']} seed{'s' if origin['seeds'] > 1 else ''}"
    return ", ".join([origin["data"], *counts, seeds])


def _millions(parameters: int) -> str:
    return f"{fixed(parameters / 1e9, 1)}B" if parameters >= 1e9 else f"{fixed(parameters / 1e6, 1)}M"
