r"""From an Alpaca row to token ids and labels, and from a file of them to the data set that LLaMA-Factory loads.

Upstream renders SFT rows with LLaMA-Factory's `qwen` template and the default Alpaca mapping: the instruction stands in
the *user* turn under the stock system prompt, while RL and evaluation put it into the *system* turn. `layout` names the
two; `upstream_user` gives LLaMA-Factory's own ids (tested against its processor). Upstream also trains on the results
of tools; `mask_results` takes them out and encodes each segment by itself, as the rollout does.

The data set is saved tokenised: LLaMA-Factory's `tokenized_path` loads a `DatasetDict` with splits `train` and
`validation` and columns `input_ids`, `attention_mask`, `labels`, and then applies no template of its own.
"""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tir.data.alpaca import read_alpaca
from tir.protocol import encode_tool_text, render_result, split_output

IGNORE = -100
UPSTREAM_SYSTEM = "You are a helpful assistant."
_END = "<|im_end|>"


@dataclass(frozen=True)
class RenderSettings:
    """How rows become ids.

    Attributes:
        layout: `upstream_user` (instruction and input in the user turn) or `system_role` (as in RL and evaluation).
        mask_results: no loss on tool results, and every segment encoded by itself.
        leading_space: with `mask_results`, a space before `<result>`, as the rollout is configured to inject it.
        cutoff_tokens: rows are cut after this many tokens.
    """

    layout: Literal["upstream_user", "system_role"] = "upstream_user"
    mask_results: bool = False
    leading_space: bool = False
    cutoff_tokens: int = 4096


def prompt_text(row: dict, layout: str) -> str:
    """The ChatML prompt of a row, up to where the assistant begins."""
    if layout == "system_role":
        system, user = row["instruction"], row["input"]
    else:
        system, user = UPSTREAM_SYSTEM, "\n".join(part for part in (row["instruction"], row["input"]) if part)
    return f"<|im_start|>system\n{system}{_END}\n<|im_start|>user\n{user}{_END}\n<|im_start|>assistant\n"


def render_rows(tokenizer, rows: Sequence[dict], settings: RenderSettings) -> Iterator[dict]:
    """Rows as `{"input_ids", "attention_mask", "labels"}`, lists of equal length, labels -100 where there is no loss.

    Without `mask_results` the assistant turn is one text and ends in `<|im_end|>` and a line break, both learned, as
    LLaMA-Factory has it. With it, the model's segments are learned, the last one up to `<|im_end|>`.
    """
    tool_ids: dict[str, list[int]] = {}
    for start in range(0, len(rows), 1000):
        chunk = rows[start : start + 1000]
        texts: list[str] = []
        for row in chunk:
            texts.append(prompt_text(row, settings.layout))
            texts.extend(_model_texts(row["output"], settings.mask_results))
        encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
        for row in chunk:
            ids = list(next(encoded))
            labels = [IGNORE] * len(ids)
            for by, text in _pieces(row["output"], settings):
                if by == "tool":
                    if text not in tool_ids:
                        tool_ids[text] = encode_tool_text(tokenizer, text)
                    piece = tool_ids[text]
                else:
                    piece = next(encoded)
                ids.extend(piece)
                labels.extend([IGNORE] * len(piece) if by == "tool" else piece)
            ids, labels = ids[: settings.cutoff_tokens], labels[: settings.cutoff_tokens]
            yield {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}


def _pieces(output: str, settings: RenderSettings) -> list[tuple[str, str]]:
    """(author, text) of the assistant turn's pieces, as they are to be encoded."""
    if not settings.mask_results:
        return [("model", output + _END + "\n")]
    pieces = []
    for segment in split_output(output):
        if segment.by == "tool":
            payload = segment.text.removeprefix("<result>\n").removesuffix("\n</result>")
            pieces.append(("tool", render_result(payload, leading_space=settings.leading_space)))
        else:
            pieces.append(("model", segment.text))
    if not pieces or pieces[-1][0] == "tool":
        pieces.append(("model", ""))
    return [*pieces[:-1], ("model", pieces[-1][1] + _END)]


def _model_texts(output: str, mask_results: bool) -> list[str]:
    return [text for by, text in _pieces(output, RenderSettings(mask_results=mask_results)) if by == "model"]


def split_holdout(rows: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """(training, held-out) row numbers, each ascending; ceil(share * rows) rows are held out, as scikit-learn counts."""
    held = set(random.Random(seed).sample(range(rows), math.ceil(share * rows)))
    return [row for row in range(rows) if row not in held], sorted(held)


def write_tokenized(data: str | Path, tokenizer_directory: str | Path, output: str | Path, settings: RenderSettings, *,
                    holdout: float, seed: int, max_rows: int | None = None) -> dict[str, int]:
    """Render a file into the directory that `tokenized_path` names; it appears complete or not at all.

    Returns:
        counts: rows, train, validation, cut (rows that reach the cutoff), longest (in tokens, at most the cutoff).
    """
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    rows = read_alpaca(data, max_rows)
    train, held = split_holdout(len(rows), holdout, seed)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    # Packed at once: as lists of Python integers the full data would take several gigabytes.
    rendered = [{name: np.asarray(ids, dtype=np.int32) for name, ids in row.items()}
                for row in render_rows(tokenizer, rows, settings)]
    lengths = [len(row["input_ids"]) for row in rendered]
    splits = {"train": _data_set(rendered, train)}
    if held:
        splits["validation"] = _data_set(rendered, held)
    output = Path(output)
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    datasets.DatasetDict(splits).save_to_disk(partial)
    shutil.rmtree(output, ignore_errors=True)
    partial.rename(output)
    return {"rows": len(rows), "train": len(train), "validation": len(held),
            "cut": sum(length >= settings.cutoff_tokens for length in lengths), "longest": max(lengths)}


def _data_set(rendered: list[dict], numbers: list[int]):
    import datasets

    return datasets.Dataset.from_dict({name: [rendered[number][name] for number in numbers] for name in rendered[0]})
