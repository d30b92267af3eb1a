"""Tools of a rollout: how they are called, which of them by which task, and the section of each."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal

from pydantic import Field, create_model, model_validator

from tir.schema import Model
from tir.tools import registry

KINDS = registry.kinds()
Tag = Literal["python", "search"]
ToolName = Literal[*KINDS]


class Calling(Model):
    """How tools are called, whatever they are."""

    budget: Annotated[int, Field(ge=0, le=100)] | dict[Tag, Annotated[int, Field(ge=0, le=100)]] = Field(
        3, description="executed calls per trajectory, all tools together, or by tag")
    over_budget: Literal["notice", "end", "continue"] = Field(
        "notice", description="a call too many. notice: told so once; end: an end token is appended (upstream RL); "
                              "continue: unanswered, and later calls too (upstream evaluation)")
    leading_space: bool = Field(False, description="a space before <result>; upstream RL yes, evaluation no")
    result_tokens: Annotated[int, Field(ge=16, le=100_000)] | dict[Tag, Annotated[int, Field(ge=16, le=100_000)]] | None = Field(
        1024, description="cap on one injected result, tokens, for all tools or by tag; null: none, as upstream")
    routes: dict[Literal["math", "qa", "web"], list[ToolName]] = Field(
        default={"math": ["python", "search"], "qa": ["python", "search"], "web": ["python", "web_search"]},
        description="tools that answer, by task; each has a tag of its own")

    @model_validator(mode="after")
    def _one_per_tag(self) -> Calling:
        for task, route in self.routes.items():
            tag, number = next(iter(Counter(KINDS[name].tag for name in route).most_common(1)), ("", 0))
            if number > 1:
                several = " and ".join(name for name in route if KINDS[name].tag == tag)
                raise ValueError(f"routes.{task} has {several}, which answer the same tag, <{tag}>; keep one")
        return self

    def route(self, *tasks: str) -> list[str]:
        """Names of the tools that one of the tasks calls."""
        return sorted({name for task in tasks for name in self.routes.get(task, [])})

    def of(self, *tasks: str) -> dict[str, Any]:
        """What decides the results of the given tasks: their routes, and the tools on them."""
        routes = {task: self.routes.get(task, []) for task in tasks}
        unused = set(KINDS) - set(self.route(*tasks))
        return {**self.model_dump(mode="json", context={"operational": False}, exclude=unused), "routes": routes}

    def files(self, *tasks: str) -> list[str]:
        """Files that decide what the tools of the given tasks answer."""
        return registry.files_of(self.route(*tasks), self.model_dump(mode="json"), "index")

    def modules(self, *tasks: str) -> list[str]:
        """Modules of the tools that the given tasks call."""
        return registry.modules(self.route(*tasks))

    def ask_retrieval(self, *tasks: str) -> bool:
        """Whether one of the tasks asks the retrieval server."""
        return registry.asks_retrieval(self.route(*tasks))


Tools = create_model(
    "Tools", __base__=Calling, __module__=__name__,
    __doc__="Tools of a rollout, the same in training and evaluation unless `evaluation.tools` says otherwise.",
    **{name: (kind.settings, Field(kind.settings(), description=(kind.settings.__doc__ or name).splitlines()[0]))
       for name, kind in KINDS.items()})
