"""What the rules of data synthesis need of the configuration, as pure functions."""

from __future__ import annotations

from typing import Any

from tir.config.experiment import Config
from tir.config.synthesis import Synthesis
from tir.config.tools import Tools

TASKS = ("math", "qa")


def tools(cfg: Config, settings: Synthesis) -> Tools:
    """The tools of the teacher: those of evaluation on synthesis' own routes; results as upstream's data has them."""
    own = {"routes": settings.sampling.routes, "leading_space": False, "over_budget": "notice"}
    return cfg.evaluation_tools.model_copy(update=own)


def generated(cfg: Config, settings: Synthesis) -> dict[str, Any]:
    """Parameters of generated questions; none if they come from elsewhere."""
    made = settings.questions is not None and settings.questions.kind == "world"
    return {"rows": settings.max_questions, "world": cfg.world} if made else {"rows": None, "world": None}


def facts(cfg: Config, settings: Synthesis) -> dict[str, str]:
    """What the data card says of the configuration."""
    plan, rules = settings.sampling, settings.normalisation
    source = settings.questions or cfg.data.rl_train
    origin = {"hub": source.repo, "url": source.url, "local": source.path}.get(source.kind)
    revision = f" at {source.revision}" if source.kind == "hub" and source.revision else ""
    given = f"{source.kind}: {origin}{revision}" if origin else f"{source.kind}"
    return {
        "questions": given if settings.questions else f"those of data.rl_train ({given})",
        "licence of the questions": settings.licence,
        "tools": "; ".join(f"{task}: {', '.join(route) or 'none'}" for task, route in plan.routes.items()),
        "samples per question": f"{plan.direct} without tools, {plan.tools} with tools, {plan.hints} with a hint",
        "decoding": f"temperature {settings.teacher.temperature:g}, top_p {settings.teacher.top_p:g}",
        "right": "mathematical equality; for QA token F1 of at least " + f"{rules.qa_f1:g}",
        "seeds": f"samples {plan.seed}, order and mixed rows {settings.classification.seed}",
    }
