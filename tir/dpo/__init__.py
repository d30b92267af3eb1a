"""Self-critic DPO (direct preference optimisation on the policy's own trajectories), with LLaMA-Factory.

    prompts of the RL rows ─> trajectories, with tools ─> pairs, by the RL reward ─> LLaMA-Factory ─> model

Read `pairs` first, then `train`. Trajectories come from the evaluation's loop (`tir.rollout.traces`).
"""
