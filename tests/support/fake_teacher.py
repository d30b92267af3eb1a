"""A teacher behind an OpenAI-compatible API that answers by rules, and questions for it."""

import json
import re
from collections.abc import Callable
from typing import Any

from support.fake_services import chat

SUMS = {f"What is {a} plus {b}?": str(a + b) for a, b in ((2, 3), (40, 2), (7, 8), (10, 5), (31, 9), (6, 6))}
ANSWER = r"<answer>\[ \boxed{{{}}} \]</answer>"


def rl_row(question: str, answer: Any, ability: str = "math") -> dict:
    return {
        "data_source": "made up",
        "question": question,
        "ability": ability,
        "reward_model": {"ground_truth": answer, "style": "rule"},
        "extra_info": {"index": None},
    }


def write_questions(path, rows: list[dict]):
    """Write questions as Parquet; returns the path."""
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def teacher(right_alone: Callable[[str], bool] = lambda question: False) -> Callable:
    """An answer function of `FakeService`: adds with a program, and looks capitals up.

    Without tools its answer is right for the questions for which `right_alone` is true. Like
    OpenAI's API, it leaves the stop string out of its replies.
    """

    def reply(messages: list[dict]) -> str:
        question, last = messages[1]["content"], messages[-1]
        continued = "".join(message["content"] for message in messages[2:])
        if "<result>" in last["content"]:
            found = re.search(r"<result>\n(.*?)\n</result>", last["content"], re.S)[1]
            value = found if found.isdigit() else "Paris" if "Paris" in found else "unknown"
            return f"<think>it is {value}.</think>{ANSWER.format(value)}"
        if "<python>" in messages[0]["content"]:
            a, b = re.findall(r"\d+", question)
            return f"<think>{'' if continued else 'add them.'}</think><python>print({a}+{b})"
        if "<search>" in messages[0]["content"]:
            return "<think>look it up.</think><search>capital of France"
        a, b = (re.findall(r"\d+", question) or ["0", "0"])[:2]
        value = int(a) + int(b) if right_alone(question) else 0
        return f"<think>the sum may be {value}. Wait, is it? yes.</think>{ANSWER.format(value)}"

    plain = chat(lambda text: "")

    def answer(path: str, headers, body) -> tuple:
        if path == "/v1/models":
            return 200, {}, {"object": "list", "data": [{"id": "fake", "object": "model"}]}
        status, extra, content = plain(path, headers, body)
        if status == 200:
            content["choices"][0]["message"]["content"] = reply(body["messages"])
        return status, extra, json.loads(json.dumps(content))

    return answer
