"""Supervised fine-tuning through LLaMA-Factory: rendering, recipe, the supervised run, and checkpoint selection."""
