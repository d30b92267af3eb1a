"""GPU-hours of a stage, from a model of its work: tokens, steps, and bytes that are read.

Nothing here was measured on a GPU. Each number in `Assumptions` says what it stands for; the tests compare the formulas
with the paper's own times, and state the factor within which they agree.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from tir.config.evaluation import Evaluation
from tir.config.experiment import Config
from tir.config.rl import Rl
from tir.config.sources import ModelSource
from tir.sft import memory

PAPER_MINUTES = {  # rule: (minutes per unit, unit of work, GPUs that the paper used, source of the figure)
    "sft": (95.2 / 161_913, "row and epoch", 8, "Table 8"),
    "rl": (330 / (30 * 32 * 4), "trajectory", 8, "section 5.5"),
    "traces": (4 / 30, "item", 1, "Table 8"),
    "judge": (10 / 50, "trace", 4, "Table 8"),
}


@dataclass(frozen=True)
class Gpu:
    """A GPU: dense bf16 TFLOP/s, memory bandwidth in TB/s, memory in GB (10^9 bytes), from its data sheet."""

    tflops: float
    bandwidth: float
    memory: float


GPUS = {
    "a10": Gpu(125, 0.6, 24),
    "a10g": Gpu(70, 0.6, 24),
    "l4": Gpu(121, 0.3, 24),
    "rtx3090": Gpu(71, 0.94, 24),
    "rtx4090": Gpu(165, 1.01, 24),
    "a40": Gpu(150, 0.7, 48),
    "l40s": Gpu(362, 0.86, 48),
    "rtx6000ada": Gpu(364, 0.96, 48),
    "a100": Gpu(312, 2.0, 80),
    "h100": Gpu(989, 3.35, 80),
    "h200": Gpu(989, 4.8, 141),
    "b200": Gpu(2250, 8.0, 180),
}
UNKNOWN = "a100"  # hours of a type that is not in the table are those of this one


@dataclass(frozen=True)
class Assumptions:
    """What the model of the work takes for granted; seconds unless a name says otherwise."""

    prompt_tokens: int = 300  # median of the RL rows, system prompt included (UPSTREAM: 264 to 1,219)
    response_tokens: int = 900  # mean in training; the paper's Figure 4 reports 1,050, later 618
    row_tokens: int = 1000  # mean row of the SFT data: prompt, and a trajectory with its tool results
    passage_tokens: int = 150  # a passage of 100 words, with title and prefix
    sft_mfu: float | None = None  # share of the peak FLOP/s that fine-tuning reaches; None: see `training_mfu`
    product_share: float = 0.65  # share of the peak that large matrix products reach in bf16
    traffic_share: float = 0.8  # share of the memory bandwidth that other operations reach
    link_gb_s: float = 200.0  # NVLink, in collective operations; not overlapped with computation
    waiting: float = 1.05  # for the slowest GPU of a step, and for the processor
    rl_mfu: float = 0.15  # share of the peak FLOP/s in the updates of RL (short micro-batches) and in DPO
    encode_mfu: float = 0.25  # share of the peak FLOP/s that the encoder reaches
    decode_share: float = 0.6  # share of the memory bandwidth that decoding reaches
    decode_overhead: float = 0.008  # per decode step: scheduler, sampling, agent loop
    longest_share: float = 0.8  # length of a batch's longest response, as a share of the cap
    equal_share: float = 0.5  # groups whose rewards are all equal, as a share; differs by model and rows
    calls: int = 3  # tool calls of the trajectory that finishes last
    call: float = 3.0  # per call: a scan of 32 GB in memory, or a program
    step_overhead: float = 20.0  # per RL step: weights to the engine, batches, metrics
    engine_start: float = 150.0  # vLLM: load, profile, capture graphs
    trainer_start: float = 240.0  # torchrun or Ray, imports, tokenizing
    read_gb_s: float = 1.0  # shared file system
    tokenizer_rows_s: float = 600.0  # passages per second and core


OURS = Assumptions()


@dataclass(frozen=True)
class Shape:
    """The sizes of a transformer that decide its memory and its FLOPs."""

    parameters: float
    layers: int
    hidden: int
    kv: int  # key-value heads times their size
    vocabulary: int = 152_000

    @property
    def tied(self) -> bool:
        """Whether input embeddings and output layer are the same weights, as in Qwen2.5's small models."""
        return self.parameters < 5e9

    @property
    def kv_bytes(self) -> int:
        """Bytes of the key-value cache per token, in bf16."""
        return 2 * 2 * self.layers * self.kv

    @property
    def detailed(self) -> memory.Shape:
        """With the width of the feed-forward layers, which follows from the number of parameters."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        layer = (self.parameters - embeddings) / self.layers - 2 * self.hidden * (self.hidden + self.kv)
        return memory.Shape(self.parameters, self.layers, self.hidden, self.hidden, round(layer / 3 / self.hidden))


# Qwen2.5 by billions of parameters; another model has the shape of the next larger one, with its own parameter count.
_QWEN = {
    0.5: Shape(0.494e9, 24, 896, 128),
    1.5: Shape(1.54e9, 28, 1536, 256),
    3.0: Shape(3.09e9, 36, 2048, 256),
    7.0: Shape(7.62e9, 28, 3584, 512),
    14.0: Shape(14.8e9, 48, 5120, 1024),
    32.0: Shape(32.8e9, 64, 5120, 1024),
    72.0: Shape(72.7e9, 80, 8192, 1024),
}


def parameters(source: ModelSource) -> float:
    """Number of parameters, parsed from the model's name (`Qwen2.5-3B`); 0 if the name does not contain it."""
    found = re.search(r"(\d+(?:\.\d+)?)B\b", source.repo or source.path or "", re.IGNORECASE)
    return float(found[1]) * 1e9 if found else 0.0


def shape(source: ModelSource) -> Shape:
    """Shape of a model, by the size in its name; a model without one counts as 3 B."""
    size = parameters(source) / 1e9 or 3.0
    nearest = _QWEN[min((each for each in _QWEN if each >= size), default=72.0)]
    return nearest if size in _QWEN else Shape(size * 1e9, nearest.layers, nearest.hidden, nearest.kv)


def token_flops(model: Shape, given: Assumptions = OURS) -> float:
    """FLOPs of a token in training: six per weight; causal attention sees half of a row, at 12 x hidden per layer."""
    return 6 * model.parameters + 6 * model.layers * model.hidden * given.row_tokens


def training_mfu(
    model: Shape, number: int, gpu: Gpu, *, rows: int, tokens: int, recompute: bool, given: Assumptions = OURS
) -> float:
    """Share of the GPUs' peak FLOP/s that a step reaches, computed; recomputed FLOPs do not count as useful.

    The time of a step is that of its matrix products, of reading and writing each kept activation four times and the
    optimizer's states once, and of ZeRO 2: gradients are reduced in each pass, weights gathered once.

    Args:
        model: its shape.
        number: number of GPUs.
        gpu: their type.
        rows: rows of a step.
        tokens: tokens of a forward pass.
        recompute: whether activations are recomputed.
        given: the assumptions.
    """
    share = rows * given.row_tokens / number
    flops = share * token_flops(model, given)
    products = flops * (4 / 3 if recompute else 1) / (gpu.tflops * 1e12 * given.product_share)
    moved = 4 * share * memory.activation_bytes(model.detailed, False) + 30 * model.parameters / number
    exchanged = 2 * model.parameters * (math.ceil(share / tokens) + 1) if number > 1 else 0.0
    seconds = products + moved / (gpu.bandwidth * 1e12 * given.traffic_share) + exchanged / (given.link_gb_s * 1e9)
    return flops / (gpu.tflops * 1e12) / (seconds * given.waiting)


def sft_minutes(
    rows: int,
    epochs: int,
    number: int,
    gpu: Gpu,
    model: Shape,
    *,
    batch_rows: int = 128,
    tokens: int = 4096,
    recompute: bool = True,
    given: Assumptions = OURS,
) -> float:
    """Minutes of the training loop; `batch_rows`, `tokens` and `recompute` as in `training_mfu`."""
    mfu = given.sft_mfu or training_mfu(
        model, number, gpu, rows=batch_rows, tokens=tokens, recompute=recompute, given=given
    )
    flops = rows * epochs * given.row_tokens * token_flops(model, given)
    return flops / (number * gpu.tflops * 1e12 * mfu) / 60


def decode_s(tokens: float, gpu: Gpu, model: Shape) -> float:
    """Seconds in which a batch decodes `tokens` tokens per trajectory: each step reads all weights once, in bf16."""
    return tokens * (2 * model.parameters / (gpu.bandwidth * 1e12 * OURS.decode_share) + OURS.decode_overhead)


def rollout_rounds(rl: Rl, given: Assumptions = OURS) -> int:
    """How many times in turn a step generates trajectories: once, unless it replaces groups of equal rewards.

    Each further round draws twice as many prompts as are missing (`tir/rl/sampler.py`), until less than one is expected
    to be missing. A round lasts as long as its longest trajectory, so its number of prompts does not matter.
    """
    rounds, missing = 1, rl.batch_prompts * given.equal_share
    while rl.zero_variance_groups == "resample" and missing >= 1:
        rounds, missing = rounds + 1, missing - 2 * missing * (1 - given.equal_share)
    return rounds


def rl_minutes(config: Config, number: int, gpu: Gpu, model: Shape) -> float:
    """Minutes of a run's steps and validations. A step: roll out, recompute log-probabilities, update."""
    rl = config.rl
    rollout = decode_s(OURS.longest_share * rl.max_response_tokens, gpu, model) + OURS.calls * OURS.call
    passes = 8 + 2 * (rl.old_log_probs == "recompute") + 2 * (rl.track_kl or rl.kl_coef > 0)
    tokens = rl.batch_prompts * rl.group_size * (OURS.prompt_tokens + OURS.response_tokens)
    update = tokens * passes * model.parameters / (number * gpu.tflops * 1e12 * OURS.rl_mfu)
    validations = rl.steps // rl.validate_every + 1
    saves = rl.steps // rl.save_every * 16 * model.parameters / 1e9 / OURS.read_gb_s
    step = rollout_rounds(rl) * rollout + update + OURS.step_overhead
    return (rl.steps * step + validations * rollout + saves) / 60


def dpo_minutes(config: Config, number: int, gpu: Gpu, model: Shape) -> float:
    """Minutes of DPO if every prompt gives all its pairs: at most.

    FLOPs per weight and token: 2 each for the policy, the reference, and the recomputed activations; backward 4, or 2
    through frozen weights with adapters.
    """
    dpo = config.dpo
    passes = 2 * (2 + dpo.gradient_checkpointing) + (4 if dpo.method == "full" else 2)
    pairs = min(dpo.pairs.per_prompt, dpo.pairs.samples // 2) * dpo.pairs.rows
    tokens = 2 * pairs * dpo.epochs * (OURS.prompt_tokens + OURS.response_tokens)
    return tokens * passes * model.parameters / (number * gpu.tflops * 1e12 * OURS.rl_mfu) / 60


def traces_minutes(evaluation: Evaluation, items: int, gpu: Gpu, model: Shape) -> float:
    """Minutes in which the trajectories of one benchmark are generated, `concurrency` of them at a time."""
    rounds = math.ceil(items * evaluation.samples / evaluation.concurrency)
    longest = OURS.longest_share * evaluation.max_response_tokens
    return rounds * (decode_s(longest, gpu, model) + OURS.calls * OURS.call) / 60


def teacher_minutes(config: Config, questions: int, gpu: Gpu, model: Shape) -> float:
    """Minutes in which a teacher answers all questions, `concurrency` of them at a time; hints follow the others."""
    teacher, plan = config.synthesis.teacher, config.synthesis.sampling
    rounds = math.ceil(questions / teacher.concurrency) * (2 if plan.hints else 1)
    longest = OURS.longest_share * teacher.max_response_tokens
    return rounds * (decode_s(longest, gpu, model) + OURS.calls * OURS.call) / 60


def index_minutes(passages: int, number: int, threads: int, gpu: Gpu) -> float:
    """Minutes in which E5-base encodes the passages; the processor tokenizes at the same time."""
    flops = passages * OURS.passage_tokens * 2 * 0.086e9  # parameters without the embeddings
    encode = flops / (number * gpu.tflops * 1e12 * OURS.encode_mfu)
    return max(encode, passages / (threads * OURS.tokenizer_rows_s)) / 60


def start_minutes(rule: str, config: Config, model: Shape) -> float:
    """Minutes before the first step: imports, weights, engines; the index of a job that searches on its own."""
    weights = 2 * model.parameters / 1e9 / OURS.read_gb_s
    index = 2 * 768 * (config.data.corpus.rows or 0) / 1e9 / OURS.read_gb_s
    seconds = {
        "sft": OURS.trainer_start + weights,
        "rl": OURS.trainer_start + OURS.engine_start + weights + index,
        "rl_after_dpo": OURS.trainer_start + OURS.engine_start + weights + index,
        "dpo": OURS.trainer_start + weights,
        "dpo_samples": OURS.engine_start + weights + index,
        "traces": OURS.engine_start + weights + index,
        "teacher_samples": OURS.engine_start + weights + index,
        "judge": OURS.engine_start + weights,
        "index": 60.0,
    }
    return seconds.get(rule, 0.0) / 60
