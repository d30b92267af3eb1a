"""Time of the shaped advantage, compared with verl's GRPO, a plain decode-and-search loop, and one pass over memory.

make bench-aspo
"""

import dataclasses
import re

import numpy as np
import torch
from support.qwen_like import qwen_like_tokenizer

from aspo import ASPOConfig, compute_aspo_advantage, detect_structural_features
from bench.table import seconds

SHAPES = [(128, 4096), (512, 4096), (1024, 4096), (128, 1024)]
GROUP = 4
LAPTOP_STEP_S = 2.9  # one RL step at laptop scale


def batch(rows: int, length: int, seed: int = 0):
    """A batch of trajectories, each with prose, two Python calls with results, and an answer.

    Returns (tokenizer, responses, mask, rewards, group index, is_math).
    """
    tokenizer, rng = qwen_like_tokenizer(), np.random.default_rng(seed)
    prose = "<think>" + "let us add so many words and then think again. " * 400
    prose = tokenizer(prose, add_special_tokens=False)["input_ids"]
    call = tokenizer("</think><python>print(1 + 2)</python>", add_special_tokens=False)["input_ids"]
    result = tokenizer("\n<result>\n3\n</result>\n", add_special_tokens=False)["input_ids"]
    answer = tokenizer("<answer>\\boxed{3}</answer>", add_special_tokens=False)["input_ids"]
    responses = torch.full((rows, length), tokenizer.pad_token_id)
    mask = torch.zeros(rows, length, dtype=torch.long)
    for row in range(rows):
        ids, is_policy = [], []
        for _ in range(2):
            words = prose[: int(rng.integers(length // 8, length // 3))]
            ids += words + call + result
            is_policy += [1] * (len(words) + len(call)) + [0] * len(result)
        ids, is_policy = (ids + answer)[:length], (is_policy + [1] * len(answer))[:length]
        responses[row, : len(ids)] = torch.tensor(ids)
        mask[row, : len(is_policy)] = torch.tensor(is_policy)
    rewards = torch.zeros(rows, length)
    rewards[:, -1] = torch.tensor(rng.choice([0.0, 1.0], rows), dtype=torch.float32)
    index = rng.permutation(np.repeat(np.arange(rows // GROUP), GROUP))
    return tokenizer, responses, mask, rewards, index, torch.tensor(rng.random(rows) < 0.5)


def plain_features(responses, mask, tokenizer):
    """Features by the plain method: decode every unbroken run of policy tokens and search its text."""
    features = []
    for ids, row_mask in zip(responses.tolist(), mask.tolist(), strict=True):
        runs, run = [], []
        for token, is_policy in zip(ids, row_mask, strict=True):
            if is_policy:
                run.append(token)
            elif run:
                runs.append(run)
                run = []
        texts = [tokenizer.decode(run) for run in [*runs, run] if run]
        tool_offsets, python_offsets, length = [], [], 0
        for text in texts:
            tool_offsets += [length + match.start() for match in re.finditer("<(?:python|search)>", text)]
            python_offsets += [length + match.start() for match in re.finditer("<python>", text)]
            length += len(text)
        actions = [name for text in texts for name in re.findall("<(think|python|search|answer)>", text)]
        features.append(
            (
                actions[-2:] == ["python", "answer"],
                ("python", "think") in zip(actions, actions[1:], strict=False),
                min(tool_offsets, default=-1),
                min(python_offsets, default=-1),
                length,
                actions.count("python"),
                actions.count("search"),
            )
        )
    return features


def milliseconds(function, repeats: int = 5) -> float:
    """Median wall time of a call in milliseconds."""
    return 1000 * float(np.median(seconds(function, repeats)))


def main() -> None:
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    config = ASPOConfig()
    print(
        f"{'B x L':>12}  {'detect':>8}  {'shape':>8}  {'verl GRPO':>9}  {'plain loop':>10}  {'one pass':>8}  "
        f"{'plain/detect':>12}  {'share of a 2.9 s step':>21}   "
        f"(milliseconds, medians; {torch.get_num_threads()} threads)"
    )
    for rows, length in SHAPES:
        tokenizer, responses, mask, rewards, index, is_math = batch(rows, length)
        features = detect_structural_features(responses, mask, tokenizer)
        columns = (getattr(features, field.name).tolist() for field in dataclasses.fields(features))
        rows_of_features = list(zip(*columns, strict=True))
        assert rows_of_features == plain_features(responses, mask, tokenizer), "the two methods disagree"
        detect = milliseconds(lambda: detect_structural_features(responses, mask, tokenizer))
        shape = milliseconds(lambda: compute_aspo_advantage(rewards, mask, index, features, is_math, config))
        grpo = milliseconds(lambda: compute_grpo_outcome_advantage(rewards, mask, index))
        plain = milliseconds(lambda: plain_features(responses, mask, tokenizer), 3)
        one_pass = milliseconds(lambda: (rewards * mask, responses.sum()))
        print(
            f"{f'{rows} x {length}':>12}  {detect:8.2f}  {shape:8.2f}  {grpo:9.2f}  {plain:10.1f}  {one_pass:8.2f}  "
            f"{plain / detect:12.1f}  {(detect + shape - grpo) / (10 * LAPTOP_STEP_S):20.2f}%"
        )


if __name__ == "__main__":
    main()
