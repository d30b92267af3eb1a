"""Prompts for the teacher, by task and tools, and the words at which a text without tools hesitates.

An edit of a prompt changes the code digest of the sampling step, so the samples are made again.
"""

from __future__ import annotations

import re
from collections.abc import Collection

VERSION = 1

_ROLE = "You solve the user's problem step by step."
_THOUGHTS = "Write each thought between <think> and </think>."
_TOOL = {
    "python": "To compute something, write a complete Python program between <python> and </python>. It runs at once, "
    "and you get what it prints between <result> and </result>. Each program starts anew, so print what you need.",
    "search": "To look something up, write a short search query between <search> and </search>. You get passages of an "
    "encyclopedia between <result> and </result>.",
}
_WAIT = "End your turn after a call and wait for its result; never write a result yourself, and never repeat a call."
_NO_TOOL = "You have no tools: rely on your own reasoning."
_ANSWER = (
    r"When you are sure, give the final answer once, as short as possible, in this form: "
    r"<answer>\[ \boxed{...} \]</answer>"
)
HINTS = {
    "python": "I am not sure of this. I will check it with a Python program.",
    "search": "I am not sure of this. I will look it up.",
}
CONTINUE = "Continue your last message exactly where it ends. Do not repeat any of it."

# A text hesitates where a sentence begins with, or turns on, one of these.
_DOUBT = (
    r"wait|hmm+|hold on|however|actually|alternatively|perhaps|maybe|i am not (?:sure|certain)|i'm not (?:sure|certain)"
    r"|not sure|let me (?:double-?check|check|verify|recompute|recalculate|reconsider)|double-?check"
)
HESITATION = re.compile(rf"(?:^|(?<=[.!?\n>]))\s*(?:but |so |and |then )?(?:{_DOUBT})\b", re.IGNORECASE)


def teacher_prompt(tools: Collection[str]) -> str:
    """The system prompt for the teacher; `tools`: tags of its tools, in any order, or none."""
    parts = [_TOOL[tag] for tag in _TOOL if tag in tools]
    return " ".join([_ROLE, _THOUGHTS, *parts, _WAIT if parts else _NO_TOOL, _ANSWER])


def hint(tools: Collection[str]) -> str:
    """The sentence after which a text that hesitates is continued with tools; that of the first tool."""
    return next(HINTS[tag] for tag in HINTS if tag in tools)
