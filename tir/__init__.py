"""Tool-integrated reasoning (TIR): the runtime that training and evaluation share.

The first lines of each folder say what it contains and which file to read first. Imports point from left to right:
workflow, dpo, rl, synthesis -> sft, analysis -> world, rollout, scoring -> config -> tools -> retrieval, data -> common.
"""
