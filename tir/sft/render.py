r"""Convert Alpaca rows to token ids and labels, and save them as a data set that LLaMA-Factory loads.

Upstream renders SFT rows with LLaMA-Factory's `qwen` template and the default Alpaca mapping: the instruction is in the
*user* turn, after the default system prompt; RL and evaluation have it in the *system* turn. `layout` selects one of
them; `upstream_user` gives the same ids as LLaMA-Factory (tested). Upstream also trains on the results of tools;
`mask_results` excludes them from the loss, and encodes each segment separately, as the rollout does.

LLaMA-Factory loads the data set through `tokenized_path`: a `DatasetDict` with splits `train` and `validation` and
columns `input_ids`, `attention_mask` and `labels`. It then applies no template.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tir.common.files import new_directory
from tir.data.alpaca import read_alpaca
from tir.rollout.prompts import EndOfTurn, check_keeps_text, end_of_turn, prompt_text, refuse_open_thought
from tir.rollout.protocol import encode_inside, encode_tool_text, render_result, split_output
from tir.sft.run import SftRun

IGNORE = -100
UPSTREAM_SYSTEM = "You are a helpful assistant."


def messages(row: dict, layout: str) -> tuple[str, str]:
    """Texts of the system turn and the user turn of a row."""
    if layout == "system_role":
        return row["instruction"], row["input"]
    return UPSTREAM_SYSTEM, "\n".join(part for part in (row["instruction"], row["input"]) if part)


def render_rows(tokenizer, rows: Sequence[dict], run: SftRun) -> Iterator[dict]:
    """Yield rows as `{"input_ids", "attention_mask", "labels"}`, lists of equal length; label -100 means no loss.

    The tokenizer's chat template gives the prompt and the end of the assistant turn. Without `mask_results`, the loss
    covers the whole assistant turn with the text that the template appends (in ChatML `<|im_end|>` and a line break),
    as in LLaMA-Factory. With `mask_results`, it covers the model's segments and the token that ends the turn.

    Raises `DataError` if the tokenizer has no chat template, or one that opens a thought.
    """
    refuse_open_thought(tokenizer)
    end = end_of_turn(tokenizer)
    tool_ids: dict[str, list[int]] = {}
    for start in range(0, len(rows), 1000):
        chunk = rows[start : start + 1000]
        prompts = [prompt_text(tokenizer, *messages(row, run.sft.layout)) for row in chunk]
        prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
        segments = [_segments(row["output"], run, end) for row in chunk]
        model_ids = iter(encode_inside(tokenizer, [text for row in segments for by, text in row if by == "model"]))
        for ids, turn in zip(prompt_ids, segments, strict=True):
            labels = [IGNORE] * len(ids)
            for by, text in turn:
                if by == "model":
                    segment_ids = next(model_ids)
                elif text in tool_ids:
                    segment_ids = tool_ids[text]
                else:
                    segment_ids = tool_ids[text] = encode_tool_text(tokenizer, text)
                ids = ids + segment_ids
                labels.extend([IGNORE] * len(segment_ids) if by == "tool" else segment_ids)
            ids, labels = ids[: run.sft.cutoff_tokens], labels[: run.sft.cutoff_tokens]
            yield {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}


def _segments(output: str, run: SftRun, end: EndOfTurn) -> list[tuple[str, str]]:
    """(author, text) of the assistant turn's segments that are encoded separately."""
    if not run.sft.mask_results:
        return [("model", output + end.text)]
    segments = []
    for segment in split_output(output):
        if segment.by == "tool":
            payload = segment.text.removeprefix("<result>\n").removesuffix("\n</result>")
            segments.append(("tool", render_result(payload, leading_space=run.leading_space)))
        else:
            segments.append(("model", segment.text))
    if not segments or segments[-1][0] == "tool":
        segments.append(("model", ""))
    return [*segments[:-1], ("model", segments[-1][1] + end.closing)]


def split_holdout(rows: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Row numbers (training, held-out), each ascending; ceil(share * rows) rows are held out, as in scikit-learn."""
    held = set(random.Random(seed).sample(range(rows), math.ceil(share * rows)))
    return [row for row in range(rows) if row not in held], sorted(held)


def write_tokenized(
    data: str | Path, tokenizer_directory: str | Path, output: str | Path, run: SftRun
) -> dict[str, int]:
    """Render a file of rows into the data set `output`, which is renamed into place when it is complete.

    Returns:
        counts: rows, train, validation, cut (rows that reach the cutoff), longest (in tokens, at most the cutoff).
    """
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    rows = read_alpaca(data, run.sft.max_rows)
    train, held = split_holdout(len(rows), run.sft.holdout, run.sft.seed)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    check_keeps_text(tokenizer)
    # NumPy arrays: as lists of Python integers the full data would take several gigabytes.
    rendered = [
        {name: np.asarray(ids, dtype=np.int32) for name, ids in row.items()}
        for row in render_rows(tokenizer, rows, run)
    ]
    lengths = [len(row["input_ids"]) for row in rendered]
    splits = {"train": _data_set(rendered, train)}
    if held:
        splits["validation"] = _data_set(rendered, held)
    with new_directory(output) as partial:
        datasets.DatasetDict(splits).save_to_disk(partial)
    return {
        "rows": len(rows),
        "train": len(train),
        "validation": len(held),
        "cut": sum(length >= run.sft.cutoff_tokens for length in lengths),
        "longest": max(lengths),
    }


def _data_set(rendered: list[dict], numbers: list[int]):
    import datasets

    return datasets.Dataset.from_dict({name: [rendered[number][name] for number in numbers] for name in rendered[0]})
