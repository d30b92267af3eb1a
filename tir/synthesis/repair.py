r"""Repair of the format of a right trajectory: tags that a teacher leaves out. What cannot be repaired is dropped.

Only tags are added or moved, and text after the answer is removed; no word of the teacher is changed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from tir.rollout.protocol import Segment, format_fault, last_boxed, split_output

_TAG = re.compile(r"</?(?:think|python|search|answer)>")
_ENDS_THOUGHT = re.compile(r"<(?:python|search|answer)>")


def repaired(segments: Sequence[Segment]) -> list[Segment] | None:
    """The trajectory in the protocol's format, the same one if it already is; None if it cannot be repaired.

    The text of the result must also be read as the same segments again: fine-tuning rows are flat text.
    """
    kept = [
        segment if segment.by == "model" else replace(segment, text=segment.text.strip())
        for segment in segments
        if segment.text.strip()
    ]
    if kept and kept[-1].by == "model":
        kept[-1] = replace(kept[-1], text=_ended(kept[-1].text))
    kept = [replace(each, text=_thoughts_closed(each.text)) if each.by == "model" else each for each in kept]
    if kept and kept[0].by == "model" and not any("<think>" in each.text for each in kept if each.by == "model"):
        kept[0] = replace(kept[0], text=_as_thought(kept[0].text))
    if format_fault(kept) or _parts(split_output("".join(each.text for each in kept))) != _parts(kept):
        return None
    return kept


def _ended(text: str) -> str:
    r"""The last text, with a `\boxed{}` in an answer block that nothing follows."""
    start, end = text.rfind("<answer>"), text.find("</answer>")
    if start < 0 and last_boxed(text) is not None:  # the sentence with the answer is the answer block
        line = text.rfind("\n", 0, text.find("\\boxed")) + 1
        start = max((found.end() for found in _TAG.finditer(text)), default=line)
        return f"{text[:start]}<answer>{text[start:].strip()}</answer>"
    if start >= 0 and end < 0:
        text, end = f"{text.rstrip()}</answer>", len(text.rstrip())
    if not 0 <= start < end:
        return text
    block = text[start + len("<answer>") : end]
    if last_boxed(block) is None and block.strip():
        block = rf"\[ \boxed{{{block.strip()}}} \]"
    return f"{text[:start]}<answer>{block}</answer>"


def _thoughts_closed(text: str) -> str:
    """The text with `</think>` before a call or the answer, where a thought is still open, and without a stray one."""
    parts, position, opened = [], 0, False
    for found in _TAG.finditer(text):
        tag = found.group()
        parts.append(text[position : found.start()])
        position = found.end()
        if tag == "<think>":
            parts.append("" if opened else tag)
            opened = True
        elif tag == "</think>":
            parts.append(tag if opened else "")
            opened = False
        else:
            parts.append("</think>" * (opened and bool(_ENDS_THOUGHT.fullmatch(tag))) + tag)
            opened = opened and not _ENDS_THOUGHT.fullmatch(tag)
    return "".join([*parts, text[position:], "</think>" * opened])


def _as_thought(text: str) -> str:
    """The text before the first call or answer as a thought; unchanged if there is none."""
    first = _ENDS_THOUGHT.search(text)
    before = text[: first.start()].strip() if first else ""
    return f"<think>{before}</think>{text[first.start() :]}" if first and before else text


def _parts(segments: Sequence[Segment]) -> list[tuple[str, str]]:
    return [(segment.by, segment.text) for segment in segments]
