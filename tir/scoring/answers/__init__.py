"""Comparison of an answer with a gold answer, for mathematics (`math`) and question answering (`qa`).

The reward and the score records use it. It is a separate package so that editing `tir/scoring/score.py` does not
retrain a model.
"""
