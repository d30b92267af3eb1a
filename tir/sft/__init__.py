"""Supervised fine-tuning with LLaMA-Factory: tokenise rows, write the recipe, run the trainer, select a checkpoint.

Read `train` first, then `render`, which determines the tokens in the loss.
"""
