"""SFT rows for a rehearsal: the published format, and the texts that generated rows lack."""

from tir.data.benchmarks import Item
from tir.rollout.protocol import last_boxed, split_output
from tir.world.rehearsal import LONG_CHARACTERS, LONG_EVERY, rehearsal_rows

RL = [
    {"ability": "math", "question": "What is $\\frac{1}{2}+1$?", "reward_model": {"ground_truth": "\\frac{3}{2}"}},
    {"ability": "qa", "question": "Who wrote it?", "reward_model": {"ground_truth": ["Jane Doe", "Doe"]}},
]
ITEMS = [Item("0", "讲座的主讲人是谁？", ["肖亮"])]
PASSAGES = ['"Title"\nA passage.', '"Other"\nAnother passage.']
ROWS = rehearsal_rows(RL, ITEMS, PASSAGES, "Use tools.", 3 * LONG_EVERY)


def test_rows_have_the_published_fields_and_end_in_the_gold_answer():
    assert {tuple(row) for row in ROWS} == {("instruction", "input", "output")} and len(ROWS) == 3 * LONG_EVERY
    golds = {"What is $\\frac{1}{2}+1$?": "\\frac{3}{2}", "Who wrote it?": "Jane Doe", "讲座的主讲人是谁？": "肖亮"}
    assert {row["input"]: last_boxed(row["output"]) for row in ROWS} == golds


def test_math_calls_python_and_the_others_search_and_some_rows_call_nothing():
    tags = {row["input"]: set() for row in ROWS}
    for row in ROWS:
        tags[row["input"]].add(next((tag for tag in ("<python>", "<search>") if tag in row["output"]), ""))
    assert {question: used - {""} for question, used in tags.items()} == {
        "What is $\\frac{1}{2}+1$?": {"<python>"},
        "Who wrote it?": {"<search>"},
        "讲座的主讲人是谁？": {"<search>"},
    }
    assert any("" in used for used in tags.values())
    calling = next(row["output"] for row in ROWS if "<search>" in row["output"])
    assert [part.by for part in split_output(calling)] == ["model", "tool", "model"]


def test_every_twentieth_row_is_longer_than_the_cutoff():
    long = [number for number, row in enumerate(ROWS) if len(row["output"]) > LONG_CHARACTERS]
    assert long == [number for number in range(len(ROWS)) if number % LONG_EVERY == LONG_EVERY - 1]


def test_the_same_inputs_give_the_same_rows():
    assert rehearsal_rows(RL, ITEMS, PASSAGES, "Use tools.", 3 * LONG_EVERY) == ROWS
