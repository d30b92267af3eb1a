r"""The trajectory protocol: tags, segments, and what may be read from them.

A trajectory is a list of segments, each written by the *model* or by a *tool*:

    model  <think>add them</think><python>print(2+3)</python>
    tool   <result>\n5\n</result>
    model  <think>so five</think><answer>\[ \boxed{5} \]</answer>

Only model segments can carry an action, an answer or a reward: a tag inside a tool result is text, and a tag cannot
straddle two segments. Tags are plain text of several tokens (Tool-Star adds none to Qwen2.5's vocabulary), so every
reading is done on text, never on token ids.

The functions here are the one implementation used by SFT data, RL, traces and analysis.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

TOOLS = ("python", "search")
ACTIONS = ("think", "python", "search", "answer")
TAGS = (*ACTIONS, "result")
STOP_STRINGS = ("</python>", "</search>")

_OPEN_ACTION = re.compile(r"<(think|python|search|answer)>")
_RESULT = re.compile(r"<result>.*?</result>", re.DOTALL)
_BOXED = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"[{}]")
# The token that completes a closing tag may carry more: Qwen2.5 merges `>` with the word after it (`>The`), or with
# punctuation and line breaks (`><`, `>\n\n`). That tail is in the ids and stays; the call stands before it.
_CALL_END = re.compile(r"</(python|search)>(?:\w*|(?:[^\w\s]|_)*\s*)\Z")


@dataclass
class Segment:
    """A run of text by one author.

    Attributes:
        by: who wrote it.
        text: its text; for a model segment exactly what its token ids decode to.
        token_ids: its ids, as the engine produced them or as the tool text was encoded.
        log_probs: log-probability of each id at sampling time, model segments only; may be empty.
    """

    by: Literal["model", "tool"]
    text: str
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)

    def record(self) -> dict:
        """The segment as a trace record keeps it: log-probabilities are left to training."""
        row = asdict(self)
        del row["log_probs"]
        return row


@dataclass(frozen=True)
class ToolCall:
    """A request at the end of a model segment: which tool, and the text between its tags."""

    tool: Literal["python", "search"]
    body: str


def model_texts(segments: Iterable[Segment]) -> list[str]:
    """Texts of the model's segments, in order. Never joined by readers: a tag cannot straddle a tool result."""
    return [segment.text for segment in segments if segment.by == "model"]


def actions(segments: Iterable[Segment]) -> list[str]:
    """The action sequence: every opening tag of `ACTIONS` in model text, in order."""
    return [match for text in model_texts(segments) for match in _OPEN_ACTION.findall(text)]


def tool_call(text: str) -> ToolCall | None:
    """The call that a model segment ends with, or None.

    The body runs from the last opening tag to the closing tag at the end, which only what its last token may carry can
    follow. An unopened closing tag is no call.
    """
    end = _CALL_END.search(text)
    if end is None:
        return None
    tool = end.group(1)
    opening = f"<{tool}>"
    start = text.rfind(opening, 0, end.start())
    return ToolCall(tool, text[start + len(opening) : end.start()]) if start >= 0 else None


def render_result(payload: str, *, leading_space: bool = False) -> str:
    """Tool output as it is injected. Upstream RL puts a space before the tag, upstream evaluation none."""
    return f"{' ' if leading_space else ''}<result>\n{payload}\n</result>"


def split_output(text: str) -> list[Segment]:
    """Split the flat text of a trusted trajectory (SFT data) into model and tool segments at its result blocks."""
    segments, position = [], 0
    for match in _RESULT.finditer(text):
        if match.start() > position:
            segments.append(Segment("model", text[position : match.start()]))
        segments.append(Segment("tool", match.group()))
        position = match.end()
    if position < len(text):
        segments.append(Segment("model", text[position:]))
    return segments


def last_boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{...}` whose braces balance, or None. Linear in the text, however many stay open."""
    boxed = {match.end() - 1 for match in _BOXED.finditer(text)}
    best, stack = None, []
    for match in _BRACE.finditer(text) if boxed else ():
        if match.group() == "{":
            stack.append(match.start())
        elif stack:
            opening = stack.pop()
            if opening in boxed and (best is None or opening > best[0]):
                best = (opening, match.start())
    return None if best is None else text[best[0] + 1 : best[1]]


def answer_text(text: str) -> str | None:
    """Text between the last `</answer>` and the last `<answer>` before it, or None."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end) if end >= 0 else -1
    return text[start + len("<answer>") : end] if start >= 0 else None


def extract_answer(segments: Sequence[Segment]) -> str | None:
    r"""The trajectory's answer (upstream `evaluation/run.py:292-323`, on model text only).

    Inside the last answer block the last balanced `\boxed{}`, else the block's text; with no answer block the last
    `\boxed{}` of any model segment; else None.
    """
    texts = model_texts(segments)
    for text in reversed(texts):
        block = answer_text(text)
        if block is not None:
            boxed = last_boxed(block)
            return (block if boxed is None else boxed).strip()
    for text in reversed(texts):
        boxed = last_boxed(text)
        if boxed is not None:
            return boxed.strip()
    return None


def format_fault(segments: Sequence[Segment]) -> str | None:
    r"""Why a trajectory breaks the protocol, or None if it keeps it (upstream `re_search.validate_format`, hardened).

    At least one think block, all closed; exactly one answer block, closed, with a `\boxed{}` in it; every opened call
    is the end of its segment and answered by a tool segment. A closing tag that nothing opened is text.
    """
    texts = model_texts(segments)
    joined = "\n".join(texts)
    if joined.count("<think>") != joined.count("</think>") or "<think>" not in joined:
        return "think blocks are missing or unbalanced"
    if joined.count("<answer>") != 1 or joined.count("</answer>") != 1:
        return "not exactly one answer block"
    block = answer_text(joined)
    if block is None:
        return "answer closes before it opens"
    if last_boxed(block) is None:
        return "no boxed answer"
    for position, segment in enumerate(segments):
        if segment.by != "model":
            continue
        calls = sum(segment.text.count(f"<{tool}>") for tool in TOOLS)
        answered = position + 1 < len(segments) and segments[position + 1].by == "tool"
        if calls > 1 or (calls == 1 and not (answered and tool_call(segment.text))):
            return "a tool call is unfinished or was not executed"
    return None


def executed_tools(segments: Sequence[Segment]) -> dict[str, int]:
    """How often each tool really ran: calls that a tool segment follows. Tags merely written do not count."""
    count = dict.fromkeys(TOOLS, 0)
    for segment, following in zip(segments, segments[1:], strict=False):
        if segment.by == "model" and following.by == "tool":
            call = tool_call(segment.text)
            if call:
                count[call.tool] += 1
    return count


def first_tool_offset(segments: Sequence[Segment]) -> int:
    """Characters of model text before the first `<python>` or `<search>`; -1 if there is none (Table 4)."""
    before = 0
    for text in model_texts(segments):
        match = re.search(r"<(?:python|search)>", text)
        if match:
            return before + match.start()
        before += len(text)
    return -1


def encode_tool_text(tokenizer, text: str) -> list[int]:
    """Token ids of tool text, never a control id: `<|im_end|>` printed by a tool is nine characters, not an end.

    Raises `ValueError` if the tokenizer still yields a special id (it cannot split its own specials).
    """
    special, added = set(tokenizer.all_special_ids), tokenizer.get_added_vocab()
    # Qwen2.5's <tool_call>, <|file_sep|> and six more are control tokens that are not marked special: the text is cut inside.
    unmarked = [token for token, token_id in added.items() if token_id not in special]
    cuts = [match.start() + 1 for match in re.finditer(f"(?={'|'.join(map(re.escape, unmarked))})", text)] if unmarked else []
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)])]
    encoded = tokenizer(pieces, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    ids = [token_id for piece in encoded for token_id in piece]
    if not special.union(added.values()).isdisjoint(ids):
        raise ValueError(f"{type(tokenizer).__name__} encodes tool text to control ids")
    return ids
