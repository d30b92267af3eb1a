"""Reinforcement learning with verl: one run, from inputs to metrics and policies.

Read `launch` first. `agent_loop` calls the project's rollout loop from verl; `cpu/` lets verl run without a GPU.
"""
