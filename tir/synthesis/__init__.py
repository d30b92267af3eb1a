"""Data synthesis: questions, a teacher and tools become fine-tuning rows and RL prompts, in three steps.

    sampling    the teacher answers each question several times, without and with tools     sampled.jsonl
    normalise   wrong, broken and repeated trajectories and leaked questions are removed    normalised.jsonl
    classify    questions by difficulty: fine-tuning rows, RL prompts, and the data card    sft.json, rl_train.parquet

Read `sampling` first; docs/synthesis.md states what each step does and what upstream leaves open.
"""
