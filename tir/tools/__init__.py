"""Tools of a rollout: one module each, `NAME_tool.py`; `registry` finds them."""
