"""What the sections of a configuration say of each other: every name that refers to nothing, where it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import ValidationError

from tir.config.data import Source
from tir.config.faults import Fault, Path, faults_of, not_among
from tir.config.training import Sft
from tir.tables.reference import models
from tir.world.benchmarks import BENCHMARKS as WORLD_BENCHMARKS

if TYPE_CHECKING:
    from tir.config.experiment import Config

# Rules and results that a table added by a configuration may not be named after; those of the study itself are tables.
TAKEN = {*(f"table{number}" for number in (2, 3, 4, 7, 8, 9, 10, 13)), *(f"figure{number}" for number in range(1, 9)),
         "all", "arithmetic", "base_image", "claims", "fetch", "fetch_model", "image", "index", "judge", "judgements", "leakage",
         "preflight", "qa_bigrams", "resources", "retrieval_smoke", "rl", "scores", "select_checkpoint", "sft",
         "system_prompt", "tiny_model", "traces", "validation_set", "world", "world_trajectories"}


def faults(config: Config) -> Iterator[Fault]:
    """All faults between sections, each of which is valid by itself."""
    yield from _pilots(config)
    yield from _hub_files(config)
    yield from _rl_rows(config)
    if not any(table.in_all for table in config.tables.values()):
        yield Fault(("tables",), "none of them is made by default; one needs rows and no in_all: false")
    rules = TAKEN | {f"{kind}_{name}" for kind in ("sft", "select") for name in config.sft_pilots}
    for name, table in config.tables.items():
        if name in rules:
            yield Fault(("tables", name), f"another rule or result is called {name}; give the table another name")
        for position, row in enumerate(table.rows):
            yield from _row(config, ("tables", name, "rows", position, "model"), row.model)
            if row.paper and row.paper not in models(name):
                yield not_among(("tables", name, "rows", position, "paper"), row.paper, models(name), f"the paper's {name} has no {row.paper}")
        for position, benchmark in enumerate(table.benchmarks or []):
            yield from _benchmark(config, ("tables", name, "benchmarks", position), benchmark)
    for section in ("trace_analysis", "qa_analysis"):
        for position, chosen in enumerate(getattr(config, section)):
            yield from _row(config, (section, position, "model"), chosen.model)
            yield from _benchmark(config, (section, position, "benchmark"), chosen.benchmark)
    for position, name in enumerate(config.full_size.tables if config.full_size else []):
        if name not in (*config.tables, "qa_bigrams"):
            yield not_among(("full_size", "tables", position), name, [*config.tables, "qa_bigrams"], f"tables has no {name}")
    yield from _judge(config)
    yield from _judged_metrics(config)
    yield from _world(config)


def _rl_rows(config: Config) -> Iterator[Fault]:
    """RL reads no more rows than its source has: a file's number may be left open, a generated one's is known."""
    source = config.data.rl_train
    there, where = (config.world.rl_train_rows, "world.rl_train_rows") if source.kind == "world" and config.world else (source.rows, "data.rl_train")
    if there and config.rl.rows > there:
        yield Fault(("rl", "rows"), f"{config.rl.rows} is more than the {there} rows of {where}", paste=(("rl", "rows"), there))


def _files(config: Config) -> dict[Path, Source]:
    """The sources of all input files, models aside."""
    sources: dict[Path, Source] = {("data", name): getattr(config.data, name) for name in ("sft", "rl_train", "rl_validation", "corpus")}
    return sources | {("benchmarks", name, "source"): each.source for name, each in config.benchmarks.items()}


def _hub_files(config: Config) -> Iterator[Fault]:
    """A data set's repository holds many files; a model's is taken whole."""
    for path, source in _files(config).items():
        if source.kind == "hub" and not source.file:
            yield Fault((*path, "file"), f"missing key: which file of {source.repo} it is")


def _pilots(config: Config) -> Iterator[Fault]:
    for name, keys in config.sft_pilots.items():
        if name in ("full", "checkpoint") or name.startswith("epoch"):
            yield Fault(("sft_pilots", name), "the main run, its selected checkpoint and its epochs have that name")
        try:
            config.pilot(name)
        except ValidationError as error:
            yield from (fault.below("sft_pilots", name) for fault in faults_of(error, Sft, keys))


def _row(config: Config, path: Path, model: str) -> Iterator[Fault]:
    """A row's model is one that the workflow makes or fetches."""
    epoch = re.fullmatch(r"sft-epoch(\d+)", model)
    arm, at, step = model.partition("@")
    last, every = config.rl.steps, config.rl.save_every
    if model == "published" and config.model.published is None:
        yield Fault(path, "shows `published`, but model.published is not set")
    elif epoch and not 1 <= int(epoch[1]) <= config.sft.epochs:
        epochs = [f"sft-epoch{number}" for number in range(1, config.sft.epochs + 1)]
        yield not_among(path, model, epochs, f"shows {model}, but sft.epochs is {config.sft.epochs}")
    elif model.startswith("sft-") and not epoch and model[4:] not in config.sft_pilots:
        pilots = [f"sft-{name}" for name in config.sft_pilots]
        yield not_among(path, model, pilots, f"shows {model}, but sft_pilots has {', '.join(config.sft_pilots) or 'none'}")
    elif at and arm not in config.arms:
        yield not_among(path, model, [f"{name}@{step}" for name in config.arms], f"shows {model}, but arms has no {arm}")
    elif at and config.step(step) not in range(every, last + 1, every):
        kept = [f"{arm}@{number}" for number in range(every, last + 1, every)]
        yield not_among(path, model, kept, f"shows {model}, but checkpoints are kept every {every} steps up to {last}")


def _benchmark(config: Config, path: Path, name: str) -> Iterator[Fault]:
    if name not in config.benchmarks:
        yield not_among(path, name, config.benchmarks, f"benchmarks has no {name}")


def _judge(config: Config) -> Iterator[Fault]:
    judge, path = config.judge, ("judge", "model")
    if judge.kind == "rules":
        return
    served = [name for name, source in config.model if source is not None]
    if judge.model == "judge" and config.model.judge is None:
        yield Fault(("judge", "kind"), "'server', but model.judge is not set; set it, or let rules judge",
                    paste=(("judge", "kind"), "rules"))
    elif judge.model not in (*served, "sft"):
        yield not_among(path, judge.model, [*served, "sft"], f"model has no {judge.model}")


def _judged_metrics(config: Config) -> Iterator[Fault]:
    """The judge is a benchmark's metric only where it reads every model that a table shows on it."""
    judged = {(each.model, each.benchmark) for each in config.judged()}
    for name, benchmark in config.benchmarks.items():
        if benchmark.metric != "judge":
            continue
        tables = [each for each in config.tables.values() if name in (each.benchmarks or []) or (not each.benchmarks and benchmark.standard)]
        shown = dict.fromkeys(row.model for table in tables for row in table.rows)
        unread = [model for model in shown if (model, name) not in judged]
        if unread:
            yield Fault(("benchmarks", name, "metric"), f"'judge': nobody judges {', '.join(unread)} here; a judge of kind server "
                        "reads what trace_analysis names")


def _world(config: Config) -> Iterator[Fault]:
    """Sources of kind world need the world; the first of them is named."""
    model = config.model
    sources = _files(config) | {("model", "base"): model.base}
    made = [path for path, source in sources.items() if source.kind == "world"]
    if made and config.world is None:
        yield Fault((*made[0], "kind"), "a source of kind world needs a `world:` section", paste=(("world",), {"seed": 0}))
    if model.base.kind == "world" and config.tiny_model is None:
        yield Fault(("model", "base", "kind"), "a model of kind world needs a `tiny_model:` section", paste=(("tiny_model",), {"seed": 0}))
    for name, each in config.benchmarks.items():
        if each.source.kind == "world" and name not in WORLD_BENCHMARKS:
            yield not_among(("benchmarks", name), name, WORLD_BENCHMARKS, f"the world makes no benchmark {name}")
    for name in ("published", "judge"):
        source = getattr(model, name)
        if source and source.kind == "world":
            yield Fault(("model", name, "kind"), "the world makes the base model only; set it to hub or local, or leave the model out")
