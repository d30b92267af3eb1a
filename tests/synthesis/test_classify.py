"""Step 3 on hand-written questions: categories, rows, mixed rows, the data card, and the files in their readers."""

import json
import subprocess
import sys

import pytest
from support.paths import ROOT
from support.samples import BOTH, DIRECT, MADE_BY, PYTHON, ROWS, SEARCH, row, step2_report

from tir.analysis.tables.trajectories import text_category
from tir.common.records import read_json, write_json, write_jsonl
from tir.config.synthesis import Classification
from tir.data.alpaca import read_alpaca
from tir.data.rl_rows import golds_of, read_rl_rows, write_rl_rows
from tir.rollout.protocol import extract_answer, format_fault, split_output
from tir.synthesis.card import card, describe, teacher_facts
from tir.synthesis.classify import category, chosen, classify, rl_row, row_category
from tir.synthesis.mixed import mixed_count, mixed_rows
from tir.tools.python_tool import PythonTool

RULES = Classification()
INSTRUCTION = "Use tools."


def test_the_four_categories():
    found = [category(each, RULES.right_share) for each in ROWS]
    assert found == ["easy", "needs tools", "tools harm", "hard", "needs tools", "needs tools"]
    assert category(ROWS[3], 0.33) == "easy" and category(ROWS[0], 1.0) == "needs tools"


def test_easy_questions_become_direct_rows_needing_ones_tool_rows_and_hard_ones_prompts():
    sft, rl, report = classify(ROWS, INSTRUCTION, RULES)
    outputs = {each["input"]: each["output"] for each in sft}
    assert outputs == {"Q0?": DIRECT, "Q1?": PYTHON, "Q2?": DIRECT, "Q4?": SEARCH}
    assert {each["instruction"] for each in sft} == {INSTRUCTION} and {*sft[0]} == {"instruction", "input", "output"}
    assert [each["question"] for each in rl] == ["Q3?"]
    assert report["difficulty"]["math"] == {"easy": 1, "needs tools": 1, "tools harm": 1, "hard": 1}
    assert report["difficulty"]["qa"]["needs tools"] == 2 and report["without_row"] == 1
    assert classify(ROWS, INSTRUCTION, RULES)[0] == sft
    orders = {json.dumps(classify(ROWS, INSTRUCTION, Classification(seed=seed))[0]) for seed in range(5)}
    assert len(orders) > 1


def test_fewest_calls_then_the_shortest_come_first():
    longer, twice = PYTHON.replace("a<", "a longer thought<"), PYTHON.replace("<think>b", "<think>c</think>" + BOTH)
    many = row("0", 0, 3, twice, longer, PYTHON)
    assert chosen(many, RULES) == [PYTHON]
    assert chosen(many, Classification(rows_per_question=2)) == [PYTHON, longer]


def test_the_tool_category_is_that_of_table_2():
    for output, expected in ((DIRECT, "no_tools"), (PYTHON, "python_only"), (SEARCH, "search_only"), (BOTH, "mixed")):
        assert row_category(output) == expected == text_category({"output": output}, "here")


def test_mixed_rows_search_and_then_really_compute():
    years = [
        row(str(n), 0, 3, SEARCH.replace("1923", str(1900 + n)), task="qa", gold=[str(1900 + n)]) for n in range(12)
    ]
    with PythonTool(workers=1, minimum_level=0) as tool:
        made = mixed_rows(
            [*ROWS, *years], 9, lambda codes: [each.text for each in tool.run_many(codes)], INSTRUCTION, 0
        )
    assert len(made) == 9 and {row_category(each["output"]) for each in made} == {"mixed"}
    for each in made:
        segments = split_output(each["output"])
        assert format_fault(segments) is None and each["input"].endswith(".")
        expression = each["output"].partition("<python>print(")[2].partition(")</python>")[0]
        assert extract_answer(segments) == str(eval(expression))
        assert expression.startswith(each["output"].partition("<result>\n")[2].partition("\n")[0])
    assert mixed_rows(ROWS, 5, lambda codes: ["9"] * len(codes), INSTRUCTION, 0)[0]["output"].endswith(
        r"\boxed{9} \]</answer>"
    )
    assert mixed_rows(ROWS[:2], 5, lambda codes: [], INSTRUCTION, 0) == []
    assert mixed_count(0.1, 900) == 100 and mixed_count(0.0, 900) == 0


def test_rl_rows_are_read_back(tmp_path):
    write_rl_rows(tmp_path / "one.parquet", [rl_row(ROWS[3])])
    (found,) = read_rl_rows(tmp_path / "one.parquet")
    assert found["reward_model"]["ground_truth"] == "5" and found["ability"] == "math" and found["question"] == "Q3?"
    several = rl_row(row("7", 0, 0, gold=("a", "b"), task="qa"))
    write_rl_rows(tmp_path / "two.parquet", [rl_row(ROWS[3]), several])
    assert [golds_of(each) for each in read_rl_rows(tmp_path / "two.parquet")] == [["5"], ["a", "b"]]


def test_the_card_says_of_a_teacher_trained_here_that_it_was():
    made = MADE_BY | {"teacher": {"model": "sft", "epoch": 2, "sha256": {"model.safetensors": "0123456789abcdef0"}}}
    assert teacher_facts(made)["teacher"] == "sft, made by this workflow, weights 0123456789abcdef"
    behind_an_endpoint = teacher_facts(MADE_BY | {"teacher": {"model": "big", "revision": None}})
    assert behind_an_endpoint["teacher"] == "big, revision not stated"


def test_the_card_counts_every_step():
    sft, rl, report = classify(ROWS, INSTRUCTION, RULES)
    given = step2_report() | report | describe(sft, rl) | {"mixed_missing": 3}
    text = card(teacher_facts(MADE_BY) | {"licence": "CC0 | none"}, given)
    for line in (
        "| teacher | o/n, revision c0ffee |",
        "| licence | CC0 \\| none |",
        "| lost: refused | 2 |",
        "| **answered** | 8 |",
        "| near duplicate | 1 |",
        "| repeated call | 2 |",
        "| needs tools | 1 | 2 | rows with tools |",
        "| python_only | 1 | 25.00 |",
        "| mixed | 0 | 0.00 |",
        "| sft.json | 4 |",
        "| 1 | 2 |",
    ):
        assert f"{line}\n" in text, line
    assert "0 of 4 rows use both Python and search (the paper finds 0 of 53,971" in text and "3 more were asked" in text
    assert f"| output | {len(DIRECT + PYTHON) // 2}" in text or describe(sft, rl)["characters"]["output"][2] == len(
        SEARCH
    )


@pytest.mark.parametrize("mixed", [0.0, 0.2])
def test_the_script_writes_all_files(tmp_path, mixed):
    write_jsonl(tmp_path / "normalised.jsonl", ROWS)
    write_json(tmp_path / "report.json", step2_report())
    write_json(tmp_path / "teacher.json", MADE_BY)
    (tmp_path / "prompt.txt").write_text(INSTRUCTION)
    params = {"classification": {"mixed": mixed}, "python": {}, "facts": {"licence": "CC0"}}
    files = {
        "questions": "normalised.jsonl",
        "report": "report.json",
        "teacher": "teacher.json",
        "system-prompt": "prompt.txt",
    }
    options = [word for name, file in files.items() for word in (f"--{name}", str(tmp_path / file))]
    command = [sys.executable, "-m", "scripts.classify_questions", *options, "--output-dir", str(tmp_path / "made")]
    done = subprocess.run([*command, "--params", json.dumps(params)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows, report = read_alpaca(tmp_path / "made/sft.json"), read_json(tmp_path / "made/report.json")
    assert len(rows) == 4 + bool(mixed) == report["sft_rows"] and report["categories"]["mixed"] == int(bool(mixed))
    assert len(read_rl_rows(tmp_path / "made/rl_train.parquet")) == 1
    assert f"{int(bool(mixed))} of {len(rows)} rows use both" in (tmp_path / "made/card.md").read_text()


def test_a_corpus_without_rows_is_an_error_that_says_where_they_went(tmp_path):
    write_jsonl(tmp_path / "normalised.jsonl", [ROWS[3], ROWS[5]])
    for name in ("report", "teacher"):
        write_json(tmp_path / f"{name}.json", {})
    (tmp_path / "prompt.txt").write_text(INSTRUCTION)
    params = {"classification": {}, "python": {}, "facts": {}}
    command = [sys.executable, "-m", "scripts.classify_questions", "--questions", str(tmp_path / "normalised.jsonl")]
    command += ["--report", str(tmp_path / "report.json"), "--teacher", str(tmp_path / "teacher.json")]
    command += ["--system-prompt", str(tmp_path / "prompt.txt"), "--output-dir", str(tmp_path), "--params"]
    done = subprocess.run([*command, json.dumps(params)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "no fine-tuning rows are left" in done.stderr and "Traceback" not in done.stderr
    assert "of 2 questions, 1 are hard and 1 have no good trajectory" in done.stderr


def test_equal_rows_cuts_both_files_to_the_shorter_one(tmp_path):
    for name, count in (("long", 30), ("short", 7)):
        rows = [{"instruction": "", "input": f"{name}{n}", "output": "o"} for n in range(count)]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    files = [str(tmp_path / f"{name}.json") for name in ("long", "short")]
    made = [str(tmp_path / f"made-{name}.json") for name in ("long", "short")]
    command = [sys.executable, "-m", "scripts.equal_rows", "--files", *files, "--outputs", *made, "--params"]
    subprocess.run([*command, '{"seed": 0}'], cwd=ROOT, check=True)
    long, short = (read_json(path) for path in made)
    assert len(long) == len(short) == 7 and short == read_json(files[1])
    numbers = [int(each["input"].removeprefix("long")) for each in long]
    assert numbers == sorted(numbers) and numbers != list(range(7))
