"""Comparison of answers with gold answers, the judge, the reward of RL, and the score records of evaluation.

Read `answers/math` and `answers/qa` first: `reward` and `score` both use them.
"""
