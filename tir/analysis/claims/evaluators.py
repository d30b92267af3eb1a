"""The evaluator of each kind of claim: a function (claim, run) -> `Finding` that computes it from raw records.

Every function raises `NotMeasured` if the run lacks the records of the claim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tir.analysis.claims import scores, training, trajectories
from tir.analysis.claims.run import Run
from tir.analysis.claims.verdict import Finding

EVALUATORS: dict[str, Callable[[Mapping[str, Any], Run], Finding]] = {
    function.__name__: function
    for function in (
        scores.difference,
        scores.concentration,
        scores.ratio,
        scores.score,
        scores.wins,
        trajectories.tool_calls,
        trajectories.category_share,
        trajectories.bigram_ratio,
        trajectories.bigram_share,
        trajectories.bigram_every_metric,
        trajectories.offset_difference,
        trajectories.well_formed_share,
        training.metric_change,
        training.metric_growth,
        training.slope_ratio,
        training.metric_difference,
        training.metric_below,
        training.phi_on_qa,
        training.compute_share,
        training.trajectories,
        training.data_mixture,
        training.half_width,
        training.best_epoch,
        training.losses_ordered,
    )
} | {"equivalence": scores.equal}
