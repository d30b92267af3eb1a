"""Tools of a rollout."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tir.config.model import Model, operational


class PythonToolConfig(Model):
    """The Python tool."""

    timeout_s: float = Field(5.0, gt=0, le=600, description="seconds; upstream code 5, the paper's text 30")
    memory_mb: int = Field(2048, ge=256, le=65536, description="MiB of address space")
    output_chars: int = Field(400, ge=16, le=100_000, description="cap on the payload, both ends kept")
    empty_output: str = Field("Done", description='payload of code that prints nothing; upstream RL "Done", evaluation ""')
    timeout_text: str | None = Field(None, description="payload of a call that ran too long; null names the limit")
    unnamed_errors: Literal["type", "empty"] = Field("type", description="payload of an exception without words")
    refuse: list[str] = Field([], description="code with one of these strings fails unrun; upstream input( and os.system(")
    minimum_level: int = Field(2, ge=0, le=3, description="sandbox level below which nothing runs; tir/tools/sandbox/levels.py")
    workers: int | None = operational(None, ge=1, le=256, description="calls that run at once; null: the job's cores, at most 16")
    queue_timeout_s: float = operational(300.0, gt=0, le=3600, description="seconds a call may wait for a worker: a fault beyond")
    recycle_after: int = operational(10_000, ge=1, description="calls after which a worker is replaced")


class SearchToolConfig(Model):
    """The search tool."""

    top_k: int = Field(5, ge=1, le=100, description="passages per query; upstream code 5, its author says 10")
    output_chars: int | None = Field(8000, ge=16, le=100_000, description="cap on the payload; null: none")
    timeout_s: float = operational(60.0, gt=0, le=600, description="seconds to wait for an answer")
    retry_budget_s: float = operational(90.0, ge=0, le=3600, description="seconds after which a fault is final")


class WebSearchToolConfig(Model):
    """The web search tool. The provider's key is read from the environment (TAVILY_API_KEY), never from here."""

    provider: Literal["tavily"] = "tavily"
    mode: Literal["replay", "record", "live"] = Field(
        "replay", description="replay: the cassette alone, no network; record: the cassette, and what it lacks from the "
                              "provider; live: always the provider")
    cassette: str = Field("data/web.sqlite", description="recorded answers, by query, provider and parameters")
    top_k: int = Field(10, ge=1, le=20, description="results per query; upstream 10")
    depth: Literal["basic", "advanced"] = Field("basic", description="Tavily's search_depth; advanced costs twice")
    layout: Literal["titled", "snippets"] = Field(
        "titled", description="titled: title, then snippet, a blank line between; snippets: run together, as upstream")
    output_chars: int | None = Field(8000, ge=16, le=100_000, description="cap on the payload; null: none")
    timeout_s: float = operational(20.0, gt=0, le=600, description="seconds to wait for an answer")
    retry_budget_s: float = operational(120.0, ge=0, le=3600, description="seconds after which a fault or a full quota is final")
    concurrency: int = operational(8, ge=1, le=256, description="requests in flight")
    url: str = Field("https://api.tavily.com", pattern=r"^https?://", description="the provider's address")


Tag = Literal["python", "search"]


class Tools(Model):
    """Tools of a rollout, the same in training and evaluation unless `evaluation.tools` says otherwise."""

    budget: Annotated[int, Field(ge=0, le=100)] | dict[Tag, Annotated[int, Field(ge=0, le=100)]] = Field(
        3, description="executed calls per trajectory, all tools together, or by tag")
    over_budget: Literal["notice", "end", "continue"] = Field(
        "notice", description="a call too many. notice: told so once; end: an end token is appended (upstream RL); "
                              "continue: unanswered, and later calls too (upstream evaluation)")
    leading_space: bool = Field(False, description="a space before <result>; upstream RL yes, evaluation no")
    result_tokens: Annotated[int, Field(ge=16, le=100_000)] | dict[Tag, Annotated[int, Field(ge=16, le=100_000)]] | None = Field(
        1024, description="cap on one injected result, tokens, for all tools or by tag; null: none, as upstream")
    routes: dict[Literal["math", "qa", "web"], list[Literal["python", "search", "web_search"]]] = Field(
        default={"math": ["python", "search"], "qa": ["python", "search"], "web": ["python", "web_search"]},
        description="tools that answer, by task; search and web_search answer the same tag")
    python: PythonToolConfig = PythonToolConfig()
    search: SearchToolConfig = SearchToolConfig()
    web_search: WebSearchToolConfig = Field(WebSearchToolConfig(), description="search of the web, for routes that name it")

    @model_validator(mode="after")
    def _one_per_tag(self) -> Tools:
        for task, route in self.routes.items():
            if {"search", "web_search"} <= set(route):
                raise ValueError(f"routes.{task} has both search and web_search, which answer the same tag; keep one")
        return self

    def of(self, *tasks: str) -> dict[str, Any]:
        """What decides the results of the given tasks: their routes, and the tools on them."""
        routes = {task: self.routes.get(task, []) for task in tasks}
        used = {name for route in routes.values() for name in route}
        unused = {"python", "search", "web_search"} - used
        return {**self.model_dump(mode="json", context={"operational": False}, exclude=unused), "routes": routes}

    def cassettes(self, task: str) -> list[str]:
        """The recorded answers that decide a task's results."""
        replayed = "web_search" in self.routes.get(task, []) and self.web_search.mode == "replay"
        return [self.web_search.cassette] if replayed else []
