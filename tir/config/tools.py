"""Tools of a rollout: limits of calls, tools of each task, and one section per tool."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, create_model, model_validator

from tir.common.schema import Model, Task
from tir.tools import registry

KINDS = registry.kinds()
Tag = Literal["python", "search"]
ToolName = Literal[tuple(KINDS)]


def require_one_per_tag(routes: Mapping[str, list[str]]) -> None:
    """Raise `ValueError` if two tools of a task have the same tag."""
    for task, route in routes.items():
        tag, number = next(iter(Counter(KINDS[name].tag for name in route).most_common(1)), ("", 0))
        if number > 1:
            several = " and ".join(name for name in route if KINDS[name].tag == tag)
            raise ValueError(f"routes.{task} has {several}, which have the same tag, <{tag}>; keep one")


class Calling(Model):
    """Settings of tool calls that do not depend on the tool."""

    budget: Annotated[int, Field(ge=0, le=100)] | dict[Tag, Annotated[int, Field(ge=0, le=100)]] = Field(
        3, description="maximum executed calls per trajectory, of all tools or by tag"
    )
    over_budget: Literal["notice", "end", "continue"] = Field(
        "notice",
        description="reaction to a call over the budget. notice: the result says so, once; end: append an end token "
        "(upstream RL); continue: return no result, also for later calls (upstream evaluation)",
    )
    leading_space: bool = Field(False, description="a space before <result>; upstream: in RL, not in evaluation")
    result_tokens: (
        Annotated[int, Field(ge=16, le=100_000)] | dict[Tag, Annotated[int, Field(ge=16, le=100_000)]] | None
    ) = Field(1024, description="maximum tokens of one result, of all tools or by tag; null: no limit, as upstream")
    routes: dict[Task, list[ToolName]] = Field(
        default={"math": ["python", "search"], "qa": ["python", "search"], "web": ["python", "web_search"]},
        description="tools by task; the tools of a task must have different tags",
    )

    @model_validator(mode="after")
    def _one_per_tag(self) -> Calling:
        require_one_per_tag(self.routes)
        return self


Tools = create_model(
    "Tools",
    __base__=Calling,
    __module__=__name__,
    __doc__="Tools of a rollout, the same in training and evaluation unless `evaluation.tools` is set.",
    **{
        name: (kind.settings, Field(kind.settings(), description=(kind.settings.__doc__ or name).splitlines()[0]))
        for name, kind in KINDS.items()
    },
)
