"""Hand-written records of data synthesis: samples of step 1, questions and the report of step 2."""

from tir.synthesis.normalise import QUESTION_RULES, TRAJECTORY_RULES

ADD, RESULT = "<think>add.</think><python>print(2+3)</python>", "<result>\n5\n</result>"
FIVE = r"<think>so five.</think><answer>\[ \boxed{5} \]</answer>"
END = r"<think>b</think><answer>\[ \boxed{5} \]</answer>"
DIRECT = "<think>a</think>" + END.removeprefix("<think>b</think>")
PYTHON = "<think>a</think><python>print(5)</python><result>\n5\n</result>" + END
SEARCH = "<think>a</think><search>x</search><result>\n1923\n</result>" + END.replace("5", "1923")
BOTH = "<think>a</think><search>x</search><result>\n5\n</result>" + PYTHON


def sample(kind, number, *texts, answer="5", finish="answer", emitted=None, executed=None):
    """A sample; a text that begins with `<result>` is a tool's, every other one the model's."""
    segments = [{"by": "tool" if text.startswith("<result>") else "model", "text": text} for text in texts]
    calls = sum(each["by"] == "tool" for each in segments)
    return {"kind": kind, "number": number, "segments": segments, "answer": answer, "finish": finish} | {
        "emitted": calls if emitted is None else emitted,
        "executed": calls if executed is None else executed,
    }


def record(id, question, *samples, task="math", gold=("5",), lost=""):
    """A record of step 1."""
    facts = {"id": id, "task": task, "question": question, "gold": list(gold), "source": "made up", "lost": lost}
    return facts | {"samples": list(samples)}


def row(id, direct, tools, *outputs, task="math", gold=("5",), question=None):
    """A row of step 2: of three samples each, `direct` and `tools` are right; `outputs` are the good trajectories."""
    trajectories = [
        {"kind": "direct" if "<result>" not in text else "tools", "number": number, "output": text}
        | {"calls": text.count("<result>")}
        for number, text in enumerate(outputs)
    ]
    facts = {"id": id, "task": task, "question": question or f"Q{id}?", "gold": list(gold), "source": "made up"}
    counts = {"direct": {"samples": 3, "right": direct}, "tools": {"samples": 3, "right": tools}}
    return facts | counts | {"trajectories": trajectories}


ROWS = [
    row("0", 2, 3, DIRECT, PYTHON),
    row("1", 1, 2, DIRECT, PYTHON),
    row("2", 3, 0, DIRECT),
    row("3", 1, 1, DIRECT, PYTHON),
    row("4", 0, 3, SEARCH, task="qa", gold=("1923",)),
    row("5", 0, 3, task="qa"),
]


def step2_report():
    """The report of step 2, with a number at each rule."""
    questions = {"given": 10, **dict.fromkeys(QUESTION_RULES, 1), "lost: refused": 2, "kept": 4}
    trajectories = {"sampled": 20, **dict.fromkeys(TRAJECTORY_RULES, 2), "kept": 2}
    return {"questions": questions, "found_in": {"gsm8k": 1}, "repaired": 1, "trajectories": trajectories}


MADE_BY = {"teacher": {"model": "base", "source": {"kind": "hub", "repo": "o/n"}, "commit": "c0ffee"}, "prompts": "own"}
MADE_BY |= {"version": 1, "questions": "0123456789abcdef" * 4}
