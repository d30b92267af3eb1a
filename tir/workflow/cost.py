"""Disk space, GPU-hours and GPU memory of the planned jobs, computed from the configuration.

The hours come from a model of the work (`tir.workflow.estimate`); the plan shows those at the paper's rates beside them
(Table 8; section 5.5 for RL: 5.5 h for 30 steps). Only the plan and the preflight checks use these figures, no result
does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tir.common.errors import InfrastructureFault
from tir.config.dpo import Dpo
from tir.config.experiment import Config
from tir.config.sft import Sft
from tir.config.site import Site
from tir.sft import memory
from tir.workflow import estimate, gpu_memory
from tir.workflow.estimate import GPUS, PAPER_MINUTES, parameters, shape
from tir.workflow.gres import parse_gres

CPU_MINUTES = 2.0  # any other job; most of it is start-up
BYTES_PER_PARAMETER = {"weights": 2, "checkpoint": 16}  # bf16; fp32 master weights, Adam moments, weights
CHECKPOINTS_KEPT, RUNS_AT_ONCE = 2, 6  # checkpoints of an RL run; RL runs side by side: those of Table 5
VERL_UTILIZATION = 0.5  # verl's default for vLLM's `gpu_memory_utilization`
INDEX_CORES = 16  # of the job that builds the index
IMAGE_GB = {"cuda": 9.0, "cpu": 1.3}


@dataclass(frozen=True)
class Job:
    """One planned job: its rule, its wildcards, and its GPUs in Slurm's notation (`gpu:h100:8`, or "" for none)."""

    rule: str
    wildcards: Mapping[str, str]
    gres: str = ""

    @property
    def gpu(self) -> tuple[str, int]:
        """GPU type and count; ("", 0) for none."""
        return parse_gres(self.gres)


def needs_gpu(rule: str, config: Config, judge_endpoint: str = "none") -> bool:
    """Whether a job of the rule needs its own GPU, rather than using that of a server that is already running."""
    if config.device == "cpu":
        return False
    match rule:
        case "index":
            return config.retrieval.backend == "dense"
        case "judge":
            return bool(config.judged()) and judge_endpoint == "none"
        case "teacher_samples":
            return config.synthesis is not None and config.synthesis.teacher.endpoint is None
        case other:
            return other in ("sft", "rl", "dpo_samples", "dpo", "rl_after_dpo", "traces")


def gpus_of_job(rule: str, config: Config, total: int, site: Site) -> int:
    """GPUs of a job on a machine with `total` GPUs: training takes all of them, other stages as few as they need."""
    if not needs_gpu(rule, config, site.judge_endpoint):
        return 0
    match rule:
        case "sft" | "rl" | "dpo" | "rl_after_dpo":
            return total
        case "judge":
            return min(config.judge.gpus, total)
        case "traces":
            helpers = config.evaluation.helpers.gpus * len(config.helper_models(site.helper_endpoint)[0])
            return min(1 + helpers, total)
    return 1


def minutes(job: Job, config: Config) -> float:
    """Expected wall-clock time of a job, in minutes."""
    kind, number = job.gpu
    gpu, base = _gpu(kind) or GPUS[estimate.UNKNOWN], shape(config.models["base"])
    number = number or 1
    match job.rule:
        case "sft":
            settings = config.pilot(job.wildcards["run"])
            tokens, recompute = _passes(settings, base, gpu, number)
            work = estimate.sft_minutes(
                _units(job, config) // settings.epochs,
                settings.epochs,
                number,
                gpu,
                base,
                batch_rows=settings.batch_rows,
                tokens=tokens,
                recompute=recompute,
            )
        case "rl":
            work = estimate.rl_minutes(config, number, gpu, base)
        case "rl_after_dpo":
            part = config.part(job.wildcards["arm"], int(job.wildcards["step"]))
            work = estimate.rl_minutes(config.model_copy(update={"rl": part}), number, gpu, base)
        case "dpo":
            work = estimate.dpo_minutes(config, number, gpu, base)
        case "dpo_samples":  # the rows of RL are half of one task, half of the other
            work = estimate.traces_minutes(config.dpo_sampling(0), config.dpo.pairs.rows // 2, gpu, base)
        case "traces":
            work = estimate.traces_minutes(config.evaluation, _units(job, config), gpu, base)
        case "teacher_samples":
            base = _shape(config.synthesis.teacher.model, config)
            work = estimate.teacher_minutes(config, _units(job, config), gpu, base)
        case "judge":
            base = _shape(config.judge.model, config)
            work = estimate.decode_s(_units(job, config), gpu, base) / 60
        case "index":
            work = estimate.index_minutes(_units(job, config), number, INDEX_CORES, gpu)
        case _:
            return CPU_MINUTES
    return estimate.start_minutes(job.rule, config, base) + work


def _stage(section: Sft | Dpo) -> int:
    return int(section.deepspeed[-1]) if section.deepspeed else 0


def _passes(sft: Sft, base: estimate.Shape, gpu: estimate.Gpu, number: int) -> tuple[int, bool]:
    """Tokens of a forward pass, at most a GPU's share of a step, and whether activations are recomputed."""
    share = max(sft.cutoff_tokens, sft.batch_rows * estimate.OURS.row_tokens // number)
    tokens, recompute = sft.cutoff_tokens, True
    with contextlib.suppress(InfrastructureFault):  # the plan then says that the stage does not fit
        tokens, recompute = memory.plan_passes(
            base.detailed, gpu.memory * 1e9, number, _stage(sft), sft.cutoff_tokens, sft.gradient_checkpointing
        )
    return min(sft.micro_batch_tokens or tokens, share), recompute


def paper_minutes(job: Job, config: Config) -> float | None:
    """Time of a job at the paper's rate and on its GPUs, in minutes; None for a stage whose time it does not report."""
    return PAPER_MINUTES[job.rule][0] * _units(job, config) if job.rule in PAPER_MINUTES else None


def _gpu(kind: str) -> estimate.Gpu | None:
    """The GPU of a name such as `a100` or `a100-80gb`; None if it is not in the table."""
    return GPUS.get(kind.partition("-")[0])


def _shape(model: str, config: Config) -> estimate.Shape:
    """Shape of a configured model; that of the base model if the model is fine-tuned here."""
    return shape(config.models.get(model, config.models["base"]))


def _units(job: Job, config: Config) -> int:
    """The work of a job in the units of `PAPER_MINUTES`: rows and epochs, trajectories, items, passages, questions."""
    match job.rule:
        case "sft":
            settings = config.pilot(job.wildcards["run"])
            return min(filter(None, (settings.max_rows, config.data.sft.rows)), default=0) * settings.epochs
        case "rl":
            return config.rl.steps * config.rl.batch_prompts * config.rl.group_size
        case "index":
            return config.data.corpus.rows or 0
        case "teacher_samples":
            settings = config.synthesis
            rows = (settings.questions or config.data.rl_train).rows
            return min(filter(None, (settings.max_questions, rows)), default=0)
        case _:
            name, size = job.wildcards["benchmark"], job.wildcards.get("size", "")
            items = config.items(name, full=size.startswith("n"))
            samples = config.decoding(sampled="sampled/" in size).samples
            return min(items, config.benchmarks[name].source.rows or items) * samples


def _fullest(*moments: dict[str, float]) -> dict[str, float]:
    """Of the moments of a job, each by what then fills a GPU, the one that needs most."""
    return max(moments, key=lambda parts: sum(parts.values()))


def memory_gb(job: Job, config: Config) -> dict[str, float]:
    """GB that a job needs on each of its GPUs, by what fills them; empty for a job that needs none."""
    number, base = job.gpu[1] or 1, shape(config.models["base"])
    match job.rule:
        case "sft":
            sft = config.pilot(job.wildcards["run"])
            gpu = _gpu(job.gpu[0]) or GPUS[estimate.UNKNOWN]
            model, (tokens, recompute) = base.detailed, _passes(sft, base, gpu, number)
            activations = tokens * memory.activation_bytes(model, recompute)
            parts = _fullest(*memory.moments(model.parameters, number, _stage(sft), activations))
            return {name: size / 1e9 for name, size in parts.items()}
        case "rl" | "rl_after_dpo":
            rl = config.rl
            longest = rl.max_prompt_tokens + rl.max_response_tokens
            micro = rl.micro_batch_tokens or 2 * longest
            update = gpu_memory.training_gb(base, number, micro, stage=3, fp32_weights=True, chunk_tokens=512)
            served = sum(gpu_memory.serving_gb(base, 1, 8, longest).values())
            if card := _gpu(job.gpu[0]):  # vLLM takes this share of it whatever the load
                served = max(served, float(rl.engine.get("gpu_memory_utilization", VERL_UTILIZATION)) * card.memory)
            rollout = {name: update[name] for name in ("weights", "optimizer")} | {"vLLM": served, "contexts": 1.0}
            update["vLLM, asleep"] = 2.0  # its CUDA context and graphs
            # FSDP gathers embeddings and output layer in bf16, and reduces their gradients in fp32. verl has two copies
            # of the output layer's gradient.
            width = 10 if base.tied else 18  # bytes per weight
            update["output layer"] = width * base.vocabulary * base.hidden / 1e9
            return _fullest(update, rollout)
        case "dpo":
            dpo, rl = config.dpo, config.rl
            longest = min(dpo.pairs.cutoff_tokens, rl.max_prompt_tokens + rl.max_response_tokens)
            pair_tokens = 2 * longest * dpo.pass_pairs
            return gpu_memory.dpo_gb(base, number, pair_tokens, full=dpo.method == "full", stage=_stage(dpo))
        case "dpo_samples":
            return gpu_memory.serving_gb(base, 1, 16, config.rl.max_prompt_tokens + config.rl.max_response_tokens)
        case "traces":
            tokens = estimate.OURS.prompt_tokens + config.evaluation.max_response_tokens
            return gpu_memory.serving_gb(_shape(job.wildcards["model"], config), 1, 16, tokens)
        case "teacher_samples":
            tokens = estimate.OURS.prompt_tokens + config.synthesis.teacher.max_response_tokens
            return gpu_memory.serving_gb(_shape(config.synthesis.teacher.model, config), 1, 16, tokens)
        case "judge":
            return gpu_memory.serving_gb(_shape(config.judge.model, config), number, 8, 2048)
        case "index":
            return {"encoder": 0.4, "activations": 4.0}
    return {}


def disk_gb(jobs: Iterable[Job], config: Config, hardware: str) -> dict[str, float]:
    """Disk space that the planned jobs fill, in GB by category. Checkpoints: of at most `RUNS_AT_ONCE` RL runs."""
    jobs = list(jobs)
    rules = ("rl", "dpo", "rl_after_dpo", "index", "image")
    count = {rule: sum(job.rule == rule for job in jobs) for rule in rules}
    base = config.models["base"]
    weights = parameters(base) * BYTES_PER_PARAMETER["weights"] / 1e9
    checkpoint = parameters(base) * BYTES_PER_PARAMETER["checkpoint"] / 1e9
    fetched = sum(parameters(config.models[job.wildcards["model"]]) for job in jobs if job.rule == "fetch_model")
    rows = config.data.corpus.rows or 0
    saved = config.rl.steps // config.rl.save_every
    epochs = [config.pilot(job.wildcards["run"]).epochs for job in jobs if job.rule == "sft"]
    # Fine-tuning keeps one checkpoint per epoch and the last one within an epoch.
    kept = max(
        0,
        *(number + 1 for number in epochs),
        min(count["rl"] + count["rl_after_dpo"], RUNS_AT_ONCE) * min(saved, CHECKPOINTS_KEPT),
    )
    return {
        "images": count["image"] * IMAGE_GB[hardware],
        "corpus and index": count["index"] * rows * (768 * 3 + 4 + 650) / 1e9,
        "models": fetched * BYTES_PER_PARAMETER["weights"] / 1e9
        + weights * (sum(epochs) + 2 * count["rl"] * saved + count["dpo"] + 2 * count["rl_after_dpo"]),
        "checkpoints while training": checkpoint * kept,
    }


def plan(jobs: Iterable[Job], config: Config, hardware: str) -> str:
    """The table at the end of `snakemake -n`: jobs, GPUs, GPU-hours and GPU memory per stage, and total disk space."""
    jobs = list(jobs)
    rows, notes, total, at_paper = [], [], 0.0, 0.0
    for rule, gres in sorted({(job.rule, job.gres) for job in jobs if job.gpu[1]}):
        some = [job for job in jobs if (job.rule, job.gres) == (rule, gres)]
        kind, number = some[0].gpu
        hours = number * sum(minutes(job, config) for job in some) / 60
        rate = PAPER_MINUTES.get(rule, (0, "", 0, ""))
        paper = rate[2] * sum(paper_minutes(job, config) or 0.0 for job in some) / 60
        parts = _fullest(*(memory_gb(job, config) for job in some))
        need, card = sum(parts.values()), _gpu(kind)
        total, at_paper = total + hours, at_paper + paper
        shown = f"{paper:,.1f}  {rate[3]}" if rate[3] else "-"
        rows.append((rule, str(len(some)), f"{number} x {kind}", f"{hours:,.1f}", f"{need:,.0f}", shown))
        notes.append(f"  {rule}: {', '.join(f'{name} {size:,.1f}' for name, size in parts.items() if size >= 0.05)}")
        if card and need > card.memory:
            share = (
                ", or a smaller share for vLLM: rl: {engine: {gpu_memory_utilization: ...}}" if "vLLM" in parts else ""
            )
            advice = f"use more or larger GPUs{share}"
            notes.append(f"  {rule} needs more than the {card.memory:,.0f} GB of one {kind}: {advice}")
    others = sum(not job.gpu[1] for job in jobs)
    rows += [
        ("without a GPU", str(others), "-", "-", "-", ""),
        ("total", str(len(jobs)), "", f"{total:,.1f}", "", f"{at_paper:,.1f}"),
    ]
    head = ("stage", "jobs", "GPUs each", "GPU-hours", "GB each", "GPU-hours at the paper's rate")
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in [head, *rows]]
    memory = ["GPU memory, GB:", *notes] if notes else []
    disk = disk_gb(jobs, config, hardware)
    parts = ", ".join(f"{name} {size:,.0f}" for name, size in disk.items() if size)
    return "\n".join(["Plan", *lines, *memory, f"disk: {sum(disk.values()):,.0f} GB ({parts or 'nothing large'})"])
