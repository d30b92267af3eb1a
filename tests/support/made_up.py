"""Generated records in the workflow's layout, with scores near the paper's, for tests of tables, figures and claims."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

BENCHMARKS = [
    {"name": name, "label": label, "task": task, "metric": metric}
    for name, label, task, metric in (
        ("gsm8k", "GSM8K", "math", "em"),
        ("math500", "MATH500", "math", "em"),
        ("aime24", "AIME24", "math", "em"),
        ("aime25", "AIME25", "math", "em"),
        ("hotpotqa", "HotpotQA", "qa", "f1"),
        ("2wiki", "2Wiki", "qa", "f1"),
        ("bamboogle", "Bamb", "qa", "f1"),
        ("musique", "MuSiQue", "qa", "f1"),
    )
]
ROWS = [
    {"label": "published", "models": ["published"], "paper": "published"},
    {"label": "SFT", "models": ["sft"], "paper": "SFT"},
    {"label": "GRPO @ 30", "models": [f"grpo-step30-seed{seed}" for seed in (1, 2, 3)], "paper": "GRPO @ 30"},
    {"label": "ASPO @ 30", "models": [f"aspo-step30-seed{seed}" for seed in (1, 2, 3)], "paper": "ASPO @ 30"},
]
# Accuracy in percent per benchmark, near the paper's Table 5.
LEVELS = {
    "published": (73, 47, 10, 13, 45, 33, 43, 15),
    "sft": (83, 37, 10, 3, 45, 25, 51, 18),
    "grpo": (80, 41, 20, 7, 32, 36, 34, 14),
    "aspo": (77, 39, 17, 13, 35, 34, 42, 21),
    "gamma_only": (77, 47, 10, 7, 46, 28, 40, 13),
}


def write_lines(path: Path, rows: list[dict]) -> Path:
    """Write JSON Lines, creating parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_scores(root: Path, models: list[str], n: int = 30, seed: int = 0) -> None:
    """`scores/{model}/{benchmark}.jsonl` for every benchmark."""
    rng = np.random.default_rng(seed)
    item_ease = {benchmark["name"]: rng.normal(size=n) for benchmark in BENCHMARKS}
    for model in models:
        for position, benchmark in enumerate(BENCHMARKS):
            name = benchmark["name"]
            level = LEVELS[model.split("-step")[0].removesuffix("-epoch1").removesuffix("-epoch2")][position] / 100
            write_lines(
                root / "scores" / model / f"{name}.jsonl",
                [_score(item, benchmark["task"], level, item_ease[name][item], rng) for item in range(n)],
            )


def _score(item: int, task: str, level: float, ease: float, rng) -> dict:
    """A score record; the item is correct with probability sigmoid(logit(level) + ease)."""
    probability = 1 / (1 + np.exp(-(np.log(level / (1 - level)) + ease)))
    correct = bool(rng.random() < probability)
    f1 = float(rng.choice([0, 0, 0.4, 0.667])) if not correct else 1.0
    return {
        "id": str(item),
        "sample": 0,
        "em": float(correct),
        "f1": f1 if task == "qa" else float(correct),
        "acc": float(correct),
        "char_f1": f1 if task == "qa" else None,
        "math_equal": correct if task == "math" else None,
        "judge": None,
        "correct": correct or f1 >= 0.5,
    }


def _segments(task: str, calls: int, correct: bool, rng) -> list[dict]:
    tool = "python" if task == "math" else "search"
    think = "word " * int(rng.integers(40, 260))
    segments = []
    for call in range(calls):
        rethinks = not call or tool == "search" or rng.random() < (0.2 if correct else 0.7)
        text = f"<think>{think}</think>" if rethinks else ""
        segments += [
            {"by": "model", "text": f"{text}<{tool}>body</{tool}>", "token_ids": []},
            {"by": "tool", "text": "<result>\n<answer>tool text</answer>\n</result>", "token_ids": []},
        ]
    rethinks = not calls or tool == "search" or rng.random() < (0.1 if correct else 0.6)
    last = "<think>so</think>" if rethinks else ""
    return [*segments, {"by": "model", "text": f"{last}<answer>\\boxed{{1}}</answer>", "token_ids": []}]


def write_traces(root: Path, models: list[str], n: int = 30, seed: int = 0) -> None:
    """`traces/{model}/{benchmark}.jsonl` that match the verdicts of the scores, which must be written before."""
    rng = np.random.default_rng(seed)
    for model in models:
        for benchmark in BENCHMARKS:
            name, task = benchmark["name"], benchmark["task"]
            scores = (root / "scores" / model / f"{name}.jsonl").read_text().splitlines()
            rows = []
            for score in map(json.loads, scores):
                calls = int(rng.choice([0, 1, 1, 1, 2] if task == "math" else [1, 2, 2, 3]))
                segments = _segments(task, calls, score["correct"], rng)
                offset = segments[0]["text"].find("<python>" if task == "math" else "<search>")
                rows.append(
                    {
                        "id": score["id"],
                        "sample": 0,
                        "task": task,
                        "question": "q",
                        "gold": ["1"],
                        "segments": segments,
                        "answer": "1",
                        "n_python": calls if task == "math" else 0,
                        "n_search": calls if task == "qa" else 0,
                        "first_tool_offset": offset if calls else -1,
                        "finish": "length" if rng.random() < 0.05 else "answer",
                        "usage": {"response_tokens": 200 + 80 * calls},
                        "timings": {},
                    }
                )
            write_lines(root / "traces" / model / f"{name}.jsonl", rows)


def write_metrics(
    root: Path, arms: tuple[str, ...] = ("grpo", "aspo"), seeds: tuple[int, ...] = (1, 2, 3), steps: int = 30
) -> None:
    """`runs/rl/{arm}/seed{seed}/metrics.jsonl` with verl's metric names and validation at steps 0, 15 and 30."""
    for position, arm in enumerate(arms):
        for seed in seeds:
            rng = np.random.default_rng(100 * position + seed)
            rows = []
            for step in range(steps + 1):
                row = {"step": step}
                if step:
                    row |= {
                        "critic/score/mean": 0.1 + 0.010 * step + 0.05 * position + rng.normal(0, 0.03),
                        "actor/pg_loss": rng.normal(0, 0.02) - 0.001 * step,
                        "actor/entropy_loss": 0.9 - 0.01 * step + rng.normal(0, 0.02),
                        "actor/kl_loss": 0.0003 * step,
                        "response_length/mean": 1050 - 14 * step + rng.normal(0, 25) - 60 * position,
                        "train/finish/length": max(0.0, 0.07 - 0.003 * step),
                    }
                    if arm != "grpo":
                        row |= {"aspo/shift_share": 0.4, "aspo/phi_only_share": 0.2, "aspo/sign_flips": float(step % 3)}
                        row |= {"aspo/variance_ratio/math": 0.89 + 0.005 * seed, "aspo/zero_variance_groups": 2.0}
                        row |= {"aspo/fire/closure/math/correct": 0.8, "aspo/fire/closure/qa/wrong": 0.0}
                if step % 15 == 0:
                    row["val-core/grpo_mix/reward/mean@1"] = (
                        0.048 + 0.005 * step + rng.normal(0, 0.012) + 0.02 * position * (step > 0)
                    )
                rows.append(row)
            write_lines(root / "runs" / "rl" / arm / f"seed{seed}" / "metrics.jsonl", rows)


def write_sft(root: Path, run: str = "full", steps: int = 1239, epochs: int = 3) -> None:
    """`runs/sft/{run}/log.jsonl`, with an evaluation at the end of each epoch."""
    rng = np.random.default_rng(0)
    per_epoch = steps // epochs + 1  # the last, partial accumulation of an epoch is one more step
    eval_losses = dict(zip((per_epoch, 2 * per_epoch, steps), (0.6576, 0.6471, 0.6497), strict=True))
    rows = []
    for step in range(1, steps + 1):
        loss = float(0.66 + 0.95 * np.exp(-step / 45) - 0.05 * step / steps + rng.normal(0, 0.02))
        row = {"step": step, "epoch": step / per_epoch, "loss": round(loss, 4), "lr": 7e-6, "elapsed": 4.61 * step}
        rows.append(row | ({"eval_loss": eval_losses[step]} if step in eval_losses else {}))
    write_lines(root / "runs" / "sft" / run / "log.jsonl", rows)


def write_data(root: Path) -> Path:
    """SFT rows in Alpaca format: 67 % python, 24 % search, 9 % no tool; results contain tags that must not count."""
    texts = ["<think>a</think><python>1</python><result>\n<search>no</search>\n</result><answer>x</answer>"] * 67
    texts += ["<think>a</think><search>q</search><result>\n<python>no</python>\n</result><answer>x</answer>"] * 24
    texts += ["<think>a</think><answer>x</answer>"] * 9
    path = root / "sft.json"
    path.write_text(json.dumps([{"instruction": "", "input": "q", "output": text} for text in texts]))
    return path


def everything(root: Path) -> Path:
    """Write scores, traces, metrics, logs and SFT rows under one folder."""
    models = [model for row in ROWS for model in row["models"]]
    write_scores(root, models)
    write_traces(root, models)
    write_metrics(root)
    write_sft(root)
    write_data(root)
    return root
