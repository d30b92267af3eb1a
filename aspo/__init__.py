"""Advantage shaping for multi-tool reasoning (ASPO): the shaping term, the features it uses, and a verl trainer.

advantage    the equations: phi, its three terms, and the shaped advantage (read this first)
groups       GRPO's advantage, and values standardised within a group
detection    structural features of a trajectory, from token tensors or from segments
diagnostics  the effect of phi on a batch: firing rates, share of |A|, sign flips
integration  a verl trainer mode, registered by importing the module
"""

from aspo.advantage import ASPOConfig, compute_aspo_advantage, shaping_term, shaping_terms
from aspo.detection import StructuralFeatures, detect_structural_features, features_from_segments
from aspo.diagnostics import shaping_diagnostics

__all__ = [
    "ASPOConfig",
    "StructuralFeatures",
    "compute_aspo_advantage",
    "detect_structural_features",
    "features_from_segments",
    "shaping_diagnostics",
    "shaping_term",
    "shaping_terms",
]
