"""Categories of trajectories by the tools that they use, as in the paper's Table 2."""

from __future__ import annotations

TOOL_CATEGORIES = ("python_only", "search_only", "no_tools", "mixed")


def tool_category(python: int, search: int) -> str:
    """Tool category of a trajectory from its calls of each tool."""
    if python and search:
        return "mixed"
    return "python_only" if python else "search_only" if search else "no_tools"
