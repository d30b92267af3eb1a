"""Rows of other projects' files, converted to the formats of the readers when a file is fetched (`format` of a source).

    sharegpt    fine-tuning rows: {"conversations": [{"from", "value"}, ...], "system"?}, as LLaMA-Factory reads them,
                or the same as {"messages": [{"role", "content"}, ...]}
    search_r1   RL rows and benchmarks: {"prompt": [{"role", "content"}] or a text, "question"?, "data_source",
                "ability", "reward_model": {"ground_truth": {"target": [...]} or a list or a text}}

A file is Parquet, JSON Lines or one JSON list, whatever its format.
"""

from __future__ import annotations

import datetime
import decimal
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tir.common.errors import DataError
from tir.common.unicode import replace_surrogates_in_json
from tir.data.text import read_rows

_AUTHORS = {"system": "system", "human": "user", "user": "user", "gpt": "model", "assistant": "model"}
_AUTHORS |= {"observation": "tool", "tool": "tool"}
# ArrowInvalid and invalid UTF-8 are ValueErrors, a date after the year 9999 is one or an OverflowError, and an unknown
# time zone is a KeyError.
PARQUET_ERRORS = (OSError, ValueError, OverflowError, KeyError, NotImplementedError)
_ABILITIES = {"fact-reasoning": "qa"}  # Search-R1's name


def convert(path: Path, name: str, form: str | None) -> None:
    """Rewrite a fetched file in place in the format of its reader.

    Args:
        path: the file; text is plain UTF-8.
        name: name of the input, e.g. `rl_train.parquet`; its ending says how the file is to be stored.
        form: `format` of its source; None: the reader's own format.

    Raises `DataError` with the row (from 0) that cannot be converted.
    """
    stored, to_parquet = is_parquet(path), name.endswith(".parquet")
    if form is None and stored == to_parquet:
        return
    rows = _parquet_rows(path) if stored else read_rows(path)
    if not rows:
        raise DataError("no rows", where=str(path), why="the file is empty")
    change: Callable[[dict, str], dict] = (
        rl_row if to_parquet else {"sharegpt": alpaca_row, "search_r1": benchmark_row}.get(form, lambda row, _: row)
    )
    converted = []
    for number, row in enumerate(rows):
        where = f"{path}: row {number}"
        if not isinstance(row, dict):
            raise DataError("not a JSON object", where=where, why=f"{row!r}"[:80])
        converted.append(replace_surrogates_in_json(change(row, where)))
    if to_parquet:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(converted), path)
    else:
        lines = [_json_line(row, f"{path}: row {number}") for number, row in enumerate(converted)]
        path.write_text("".join(lines), encoding="utf-8")


def _json_line(row: dict, where: str) -> str:
    """A row of a Parquet file as a line of JSON: decimal numbers, dates and times as texts."""

    def other(value: Any) -> str:
        if isinstance(value, (decimal.Decimal, datetime.date, datetime.time)):
            return str(value)
        names = [name for name, each in row.items() if type(value).__name__ in f"{type(each).__name__} {each!r:.200}"]
        raise DataError(
            "a value is no text, number, list or mapping",
            where=f"{where}: {', '.join(names) or 'a column'}",
            why=f"it is of the type {type(value).__name__}: {value!r:.60}; leave this column out of the file",
        )

    return json.dumps(row, ensure_ascii=False, default=other) + "\n"


def is_parquet(path: Path) -> bool:
    """Whether a file begins as Parquet does."""
    with open(path, "rb") as file:
        return file.read(4) == b"PAR1"


def _parquet_rows(path: Path) -> list[dict]:
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except PARQUET_ERRORS as error:
        raise DataError("cannot read Parquet file", where=str(path), why=str(error).splitlines()[0]) from None


def alpaca_row(row: Mapping[str, Any], where: str) -> dict[str, str]:
    """The Alpaca row of a conversation: one question, then model text and results of tools in turn.

    The system turn becomes the instruction, the user turn the input. A result is written into the output in the
    protocol's tags, unless it has them already.
    """
    turns = row.get("conversations", row.get("messages"))
    if not isinstance(turns, list) or not turns:
        raise DataError(
            "no conversation",
            where=where,
            why=f"its keys are {', '.join(row)}; expected conversations or messages, a list of turns",
        )
    if unread := [name for name in ("tools", "functions") if row.get(name) not in (None, "", [], "[]")]:
        raise DataError(
            "a key that no row can have",
            where=f"{where}: {unread[0]}",
            why="calls are written in the protocol's tags; write the instruction of the tools into the system turn",
        )
    system, question, output = row.get("system") or "", None, []
    for number, turn in enumerate(turns):
        place = f"{where}: turn {number}"
        role, text = _turn(turn, place)
        if role == "system" and number == 0 and system.strip() in ("", text.strip()):
            system = text
        elif role == "user" and question is None and not output:
            question = text
        elif role == "model" and question is not None:
            output.append(text)
        elif role == "tool" and output:
            output.append(text if text.lstrip().startswith("<result>") else f"<result>\n{text}\n</result>")
        else:
            raise DataError(
                "a turn out of place",
                where=place,
                why=f"it is of the {role}; a row has at most one system turn, one question, and then turns of the "
                "model and of tools, beginning with the model",
            )
    return {"instruction": system, "input": question or "", "output": "".join(output)}


def _turn(turn: Any, where: str) -> tuple[str, str]:
    turn = turn if isinstance(turn, dict) else {}
    author, text = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    if not isinstance(author, str) or author not in _AUTHORS:
        raise DataError("no such author", where=where, why=f"{author!r}; known are {', '.join(_AUTHORS)}")
    if unread := [name for name in ("tool_calls", "function_call") if turn.get(name)]:
        raise DataError(
            "a call that is no text", where=f"{where}: {unread[0]}", why="calls are written in the protocol's tags"
        )
    if not isinstance(text, str):
        raise DataError("a turn has no text", where=where, why=f"{text!r}"[:80])
    return _AUTHORS[author], text


def rl_row(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The RL row of one of Search-R1's, or of Tool-Star's as JSON; the reader checks its values."""
    missing = [name for name in ("data_source", "ability") if not isinstance(row.get(name), str)]
    if missing:
        raise DataError("column is missing", where=f"{where}: {missing[0]}", why=f"its keys are {', '.join(row)}")
    return {
        "data_source": row["data_source"],
        "question": _question(row, where),
        "ability": _ABILITIES.get(row["ability"], row["ability"]),
        "reward_model": {"ground_truth": _golds(row, where), "style": "rule"},
    }


def benchmark_row(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The benchmark item of one of Search-R1's rows."""
    return {"question": _question(row, where), "answer": _golds(row, where)}


def _question(row: Mapping[str, Any], where: str) -> str:
    """The column `question`, or the last user turn of the prompt without the instruction before `Question:`."""
    if isinstance(row.get("question"), str):
        return row["question"].strip()
    prompt = row.get("prompt")
    if isinstance(prompt, list):
        texts = [turn.get("content") for turn in prompt if isinstance(turn, dict) and turn.get("role") == "user"]
        prompt = texts[-1] if texts else None
    if not isinstance(prompt, str):
        raise DataError(
            "no question", where=f"{where}: prompt", why=f"{row.get('prompt')!r}"[:80] + " has no user turn with a text"
        )
    if prompt.count("Question:") > 1:
        raise DataError(
            "it is not clear where the question begins",
            where=f"{where}: prompt",
            why="`Question:` stands in it more than once; give the row a column `question`",
        )
    return prompt.rpartition("Question:")[2].strip()


def _golds(row: Mapping[str, Any], where: str) -> list[str]:
    model = row.get("reward_model")
    golds = model.get("ground_truth") if isinstance(model, Mapping) else None
    golds = golds.get("target") if isinstance(golds, Mapping) else golds
    golds = [golds] if isinstance(golds, str) else golds
    if not isinstance(golds, list) or not golds or not all(isinstance(gold, str) for gold in golds):
        raise DataError(
            "no gold answer",
            where=f"{where}: reward_model.ground_truth",
            why=f"{golds!r}"[:80] + " is neither a text nor a list of texts, nor such a `target`",
        )
    return golds
