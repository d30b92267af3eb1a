"""The cost of shaping, side by side in one run: ours, verl's GRPO alone, a plain decode-and-search loop, one memory pass.

    make bench-aspo
"""

import dataclasses
import re

import numpy as np
import torch

from aspo import ASPOConfig, compute_aspo_advantage, detect_structural_features
from bench.table import seconds
from qwen_like import qwen_like_tokenizer

SHAPES = [(128, 4096), (512, 4096), (1024, 4096), (128, 1024)]
GROUP = 4
LAPTOP_STEP_S = 2.9


def batch(rows: int, length: int, seed: int = 0):
    """Trajectories of prose, two Python calls with results, and an answer, filling the row."""
    tokenizer, rng = qwen_like_tokenizer(), np.random.default_rng(seed)
    prose = tokenizer("<think>" + "let us add so many words and then think again. " * 400, add_special_tokens=False)["input_ids"]
    call = tokenizer("</think><python>print(1 + 2)</python>", add_special_tokens=False)["input_ids"]
    result = tokenizer("\n<result>\n3\n</result>\n", add_special_tokens=False)["input_ids"]
    answer = tokenizer("<answer>\\boxed{3}</answer>", add_special_tokens=False)["input_ids"]
    responses = torch.full((rows, length), tokenizer.pad_token_id)
    mask = torch.zeros(rows, length, dtype=torch.long)
    for row in range(rows):
        ids, keep = [], []
        for _ in range(2):
            words = prose[: int(rng.integers(length // 8, length // 3))]
            ids += words + call + result
            keep += [1] * (len(words) + len(call)) + [0] * len(result)
        ids, keep = (ids + answer)[:length], (keep + [1] * len(answer))[:length]
        responses[row, : len(ids)] = torch.tensor(ids)
        mask[row, : len(keep)] = torch.tensor(keep)
    rewards = torch.zeros(rows, length)
    rewards[:, -1] = torch.tensor(rng.choice([0.0, 1.0], rows), dtype=torch.float32)
    index = rng.permutation(np.repeat(np.arange(rows // GROUP), GROUP))
    return tokenizer, responses, mask, rewards, index, torch.tensor(rng.random(rows) < 0.5)


def plain_features(responses, mask, tokenizer):
    """What one would write first: decode every unbroken run of policy tokens, search it."""
    found = []
    for ids, keep in zip(responses.tolist(), mask.tolist(), strict=True):
        runs, run = [], []
        for token, wanted in zip(ids, keep, strict=True):
            if wanted:
                run.append(token)
            elif run:
                runs.append(run)
                run = []
        texts = [tokenizer.decode(run) for run in [*runs, run] if run]
        tools, codes, before = [], [], 0
        for text in texts:
            tools += [before + match.start() for match in re.finditer("<(?:python|search)>", text)]
            codes += [before + match.start() for match in re.finditer("<python>", text)]
            before += len(text)
        actions = [name for text in texts for name in re.findall("<(think|python|search|answer)>", text)]
        found.append((actions[-2:] == ["python", "answer"], ("python", "think") in zip(actions, actions[1:], strict=False),
                      min(tools, default=-1), min(codes, default=-1), before, actions.count("python"), actions.count("search")))
    return found


def milliseconds(function, repeats: int = 5) -> float:
    """Median wall time of a call."""
    return 1000 * float(np.median(seconds(function, repeats)))


def main() -> None:
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    config = ASPOConfig()
    print(f"{'B x L':>12}  {'detect':>8}  {'shape':>8}  {'verl GRPO':>9}  {'plain loop':>10}  {'one pass':>8}  {'plain/detect':>12}"
          f"  {'share of a 2.9 s step':>21}   (milliseconds, medians; {torch.get_num_threads()} threads)")
    for rows, length in SHAPES:
        tokenizer, responses, mask, rewards, index, is_math = batch(rows, length)
        features = detect_structural_features(responses, mask, tokenizer)
        ours = list(zip(*(getattr(features, field.name).tolist() for field in dataclasses.fields(features)), strict=True))
        assert ours == plain_features(responses, mask, tokenizer), "the two readers disagree"
        detect = milliseconds(lambda: detect_structural_features(responses, mask, tokenizer))
        shape = milliseconds(lambda: compute_aspo_advantage(rewards, mask, index, features, is_math, config))
        grpo = milliseconds(lambda: compute_grpo_outcome_advantage(rewards, mask, index))
        plain = milliseconds(lambda: plain_features(responses, mask, tokenizer), 3)
        floor = milliseconds(lambda: (rewards * mask, responses.sum()))
        print(f"{f'{rows} x {length}':>12}  {detect:8.2f}  {shape:8.2f}  {grpo:9.2f}  {plain:10.1f}  {floor:8.2f}  {plain / detect:12.1f}"
              f"  {(detect + shape - grpo) / (10 * LAPTOP_STEP_S):20.2f}%")


if __name__ == "__main__":
    main()
