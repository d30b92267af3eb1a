"""Checks of the sources of input files and models: the sections and keys that each kind of source needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tir.config.faults import Fault, Path, not_among
from tir.config.sources import Source
from tir.world.benchmarks import BENCHMARKS as WORLD_BENCHMARKS

if TYPE_CHECKING:
    from tir.config.experiment import Config


def hub_files(config: Config) -> Iterator[Fault]:
    """A data file from a hub repository needs `file`; of a model's repository all files are fetched."""
    for path, source in _files(config).items():
        if source.kind == "hub" and not source.file:
            yield Fault((*path, "file"), f"missing key: name of the file in {source.repo}")


def world(config: Config) -> Iterator[Fault]:
    """Sources of kind world need the section `world`, and models of that kind `tiny_model`; reports the first."""
    named = {("models", name): source for name, source in config.models.items()}
    made = [path for path, source in _files(config).items() if source.kind == "world"]
    if made and config.world is None:
        yield Fault(
            (*made[0], "kind"), "a source of kind world needs a `world:` section", paste=(("world",), {"seed": 0})
        )
    tiny = [path for path, source in named.items() if source.kind == "world"]
    if config.tiny_model is None and tiny:
        yield Fault(
            (*tiny[0], "kind"),
            "a model of kind world needs a `tiny_model:` section",
            paste=(("tiny_model",), {"seed": 0}),
        )
    for name, each in config.benchmarks.items():
        if each.source.kind == "world" and name not in WORLD_BENCHMARKS:
            yield not_among(("benchmarks", name), name, WORLD_BENCHMARKS, f"the world has no benchmark {name}")


def rehearsal(config: Config) -> Iterator[Fault]:
    """Only SFT rows can be made for a rehearsal, and they need the system prompt."""
    for path, source in _files(config).items():
        if source.kind == "rehearsal" and path != ("data", "sft"):
            yield Fault((*path, "kind"), "only data.sft can be of kind rehearsal")
    if config.data.sft.kind == "rehearsal" and config.data.prompt is None:
        yield Fault(("data", "prompt"), "missing key: rows of kind rehearsal need a system prompt")


def synthesis(config: Config) -> Iterator[Fault]:
    """Synthesised rows need the section `synthesis`, and their questions and teacher must not depend on them."""
    settings, sft = config.synthesis, config.data.sft.kind == "synthesis"
    for path, source in _files(config).items():
        if source.kind != "synthesis":
            continue
        if path not in (("data", "sft"), ("data", "rl_train")):
            yield Fault((*path, "kind"), "only data.sft and data.rl_train can be of kind synthesis")
        elif settings is None:
            paste = (("synthesis",), {"teacher": {"model": "base"}})
            yield Fault((*path, "kind"), "a source of kind synthesis needs a `synthesis:` section", paste=paste)
    if sft and config.data.prompt is None:
        yield Fault(("data", "prompt"), "missing key: rows of kind synthesis need a system prompt")
    if settings is None:
        return
    teacher, path = settings.teacher, ("synthesis", "teacher", "model")
    known = [*config.models, "sft"]
    if teacher.endpoint is None and teacher.model not in known:
        yield not_among(path, teacher.model, known, f"models has no {teacher.model}")
    elif sft and teacher.endpoint is None and (teacher.model == "sft" or config.models[teacher.model].kind == "world"):
        yield Fault(path, f"{teacher.model} is itself made of the fine-tuning data that it should make")
    if sft and config.models.get("base") and config.models["base"].kind == "world":
        yield Fault(("data", "sft", "kind"), "the tiny model's vocabulary is made of the fine-tuning data")
    questions, path = settings.questions, ("synthesis", "questions")
    if questions is None and config.data.rl_train.kind == "synthesis":
        yield Fault(path, "null: the questions of data.rl_train, but these are made of them; name another source")
    elif questions and questions.kind in ("rehearsal", "synthesis"):
        yield Fault((*path, "kind"), f"{questions.kind!r}: only hub, url, local or world")
    elif questions and questions.kind == "world" and config.world is None:
        yield Fault((*path, "kind"), "a source of kind world needs a `world:` section", paste=(("world",), {"seed": 0}))
    elif questions and questions.kind == "hub" and not questions.file:
        yield Fault((*path, "file"), f"missing key: name of the file in {questions.repo}")


def _files(config: Config) -> dict[Path, Source]:
    """The sources of all input files, without models."""
    sources: dict[Path, Source] = {
        ("data", name): getattr(config.data, name) for name in ("sft", "rl_train", "rl_validation", "corpus")
    }
    return sources | {("benchmarks", name, "source"): each.source for name, each in config.benchmarks.items()}
