"""When is an answer right? Comparison with the gold answers, shared by the reward of training and by scoring.

Apart from `tir.scoring`, so that a change of how results are scored and stored never retrains a model.
"""
