"""The tools a model can call in a rollout: one module `NAME_tool.py` per tool, a Python sandbox, web search clients.

Read `base` first (the interface of a tool), then `python_tool`. `registry` finds tools by their file names.
"""
