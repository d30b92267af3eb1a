"""The generated world: file formats, disjoint splits, and trajectories in a valid format."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations
from random import Random

import pytest

from tir.common.errors import ConfigError, DataError
from tir.config.world import Habits, TrajectorySettings, WorldSettings
from tir.retrieval.passage import Passage, render_passages
from tir.rollout.protocol import (
    actions,
    executed_tools,
    extract_answer,
    first_tool_offset,
    format_fault,
    render_result,
    split_output,
    tool_call,
)
from tir.tools.python_tool import PythonTool
from tir.world.benchmarks import BENCHMARKS, MATH_BENCHMARKS, benchmark_rows, math_problems, qa_questions
from tir.world.drafts import python_draft
from tir.world.entities import QA_BENCHMARKS, build_world, passage_text, passages
from tir.world.files import tokenizer_text, write_world
from tir.world.names import unique_names
from tir.world.problems import FAMILIES, draw, latex, split_of
from tir.world.questions import all_questions
from tir.world.rl import rl_rows
from tir.world.trajectories import alpaca_rows, complete, drafts, sft_rows

SETTINGS = WorldSettings(seed=3, sft_clusters=60, rl_train_rows=80, rl_validation_rows=24, benchmark_rows=12)
TRAJECTORIES = TrajectorySettings(rows=600)


@pytest.fixture(scope="module")
def world():
    return build_world(SETTINGS)


@pytest.fixture(scope="module")
def finished(world):
    """Trajectories completed with fake tools: programs print the expected text, searches find the named entity."""
    unfinished = drafts(world, TRAJECTORIES)
    outputs = {
        tool_call(turn).body: expected or "Done"
        for draft in unfinished
        for turn, expected in zip(draft.turns, draft.expects, strict=False)
    }

    def search(queries: list[str]) -> list[str]:
        matches = [[entity for name, entity in world.by_name.items() if query.endswith(name)] for query in queries]
        return [passage_text(entities[0]) if entities else "nothing" for entities in matches]

    return complete(unfinished, lambda codes: [outputs[code] for code in codes], search)


def test_the_world_is_determined_by_its_seed(world):
    again, other = build_world(SETTINGS), build_world(SETTINGS.model_copy(update={"seed": 4}))
    assert passages(world) == passages(again) and benchmark_rows(world) == benchmark_rows(again)
    assert rl_rows(world, "rl_train") == rl_rows(again, "rl_train")
    assert not {row["contents"] for row in passages(world)} & {row["contents"] for row in passages(other)}


def test_the_default_world_has_thousands_of_distinct_names():
    entities = list(build_world(WorldSettings()).entities())
    assert len(entities) > 2000
    assert len({entity.name for entity in entities}) == len(entities)


def test_more_names_than_the_words_give_is_an_error():
    with pytest.raises(ConfigError, match="sft_clusters"):
        unique_names("city", 10**7, Random(0))


def test_passages_are_in_the_corpus_format(world):
    rows = passages(world)
    assert [row["id"] for row in rows] == [str(number) for number in range(len(rows))]
    for row in rows:
        assert set(row) == {"id", "contents"} and re.fullmatch(r'"[^"\n]+"\n[^\n]+\.', row["contents"])
    assert len(rows) == len(list(world.entities()))


def test_benchmark_fields_and_gold_types(world):
    rows = benchmark_rows(world)
    assert tuple(rows) == BENCHMARKS and all(len(items) == SETTINGS.benchmark_rows for items in rows.values())
    for number, row in enumerate(rows["gsm8k"]):
        assert set(row) == {"question", "answer", "idx"} and row["idx"] == number
        assert re.search(r"\n#### -?\d+$", row["answer"])
    for row in rows["math500"]:
        assert set(row) == {"question", "answer"} and isinstance(row["answer"], str)
    assert any("\\frac" in row["answer"] for row in rows["math500"])
    for row in rows["aime24"]:
        assert set(row) == {"id", "problem", "solution", "answer", "url", "question"}
        assert re.fullmatch(r"\d{3}", row["answer"]) and row["question"] == row["problem"]
    for row in rows["aime25"]:
        assert set(row) == {"problem", "answer", "id"} and isinstance(row["answer"], int) and 0 <= row["answer"] < 1000
    for name in QA_BENCHMARKS:
        for row in rows[name]:
            assert (
                set(row) == {"question", "answer"} and row["answer"] and all(isinstance(g, str) for g in row["answer"])
            )
    assert all(len(row["answer"]) == 1 for name in ("hotpotqa", "bamboogle") for row in rows[name])
    assert any(len(row["answer"]) > 1 for row in rows["2wiki"]) and any(
        len(row["answer"]) > 1 for row in rows["musique"]
    )


def test_benchmarks_differ_in_difficulty(world):
    operations = {
        name: sum(p.operations for p in problems) / len(problems) for name, problems in math_problems(world).items()
    }
    assert operations["gsm8k"] < operations["aime25"]
    hops = {name: {len(question.hops) for question in questions} for name, questions in qa_questions(world).items()}
    assert hops["musique"] == {2} and hops["bamboogle"] == hops["hotpotqa"] == {1, 2}


def test_rl_rows_have_the_upstream_columns(world):
    for split, total in (("rl_train", 80), ("rl_validation", 24)):
        rows = rl_rows(world, split)
        assert len(rows) == total and Counter(row["ability"] for row in rows) == {"math": total // 2, "qa": total // 2}
        for row in rows:
            assert list(row) == ["data_source", "question", "ability", "reward_model", "extra_info"]
            assert row["data_source"] == "grpo_mix" and row["reward_model"]["style"] == "rule"
            assert isinstance(row["reward_model"]["ground_truth"], str) and row["extra_info"] == {"index": None}
        assert len({row["ability"] for row in rows[:12]}) == 2  # shuffled


def test_no_question_is_in_two_splits(world):
    by_split = {"sft": {draft.question for draft in drafts(world, TRAJECTORIES.model_copy(update={"rows": 3000}))}}
    for split in ("rl_train", "rl_validation"):
        by_split[split] = {row["question"] for row in rl_rows(world, split)}
    for name, rows in benchmark_rows(world).items():
        questions = [row.get("question") or row["problem"] for row in rows]
        assert len(set(questions)) == len(questions)
        by_split[name] = set(questions)
    for left, right in combinations(by_split, 2):
        assert not by_split[left] & by_split[right], (left, right)


def test_no_entity_or_fact_is_in_the_questions_of_two_splits(world):
    facts, entities = {}, {}
    for split in world.splits:
        questions = [q for hops in (1, 2) for q in all_questions(world, split, hops, Random(1))]
        facts[split] = {fact for question in questions for fact in question.facts}
        entities[split] = {entity for entity, _ in facts[split]}
    for left, right in combinations(facts, 2):
        assert not facts[left] & facts[right] and not entities[left] & entities[right], (left, right)


def test_no_expression_is_in_two_splits():
    mix = {"story:1": 1, "story:3": 1, "solve:2": 1, "nested:2": 1, "remainder:3": 1}
    codes = {
        split: {problem.code for problem in draw(Random(0), mix, split, 200)}
        for split in ("sft", "rl_train", "rl_validation", "benchmark")
    }
    assert all(split_of(code) == split for split, of_split in codes.items() for code in of_split)


def test_few_two_hop_answers_are_in_the_first_passage(world):
    by_name = world.by_name
    leaked = [
        question
        for question in all_questions(world, "sft", 2, Random(0))
        if question.answer in by_name[question.hops[0].entity].facts.values()
    ]
    assert len(leaked) < 0.1 * len(all_questions(world, "sft", 2, Random(0)))


@pytest.mark.parametrize("family", FAMILIES)
def test_programs_print_the_problems_output(family):
    random = Random(family)
    problems = [FAMILIES[family](random, 1 + number % 3) for number in range(12)]
    with PythonTool(workers=1, timeout_s=20) as tool:
        results = tool.run_many([f"print({problem.code})" for problem in problems])
    assert [result.text for result in results] == [problem.output for problem in problems]


def test_latex_of_printed_values():
    assert latex("7/3") == r"\frac{7}{3}" and latex("-7/3") == r"-\frac{7}{3}" and latex("12") == "12"
    assert latex("x**2 - 12*x + 35") == "x^2 - 12x + 35"


def test_trajectories_have_a_valid_format_and_use_the_tools_of_their_category(world, finished):
    assert len(finished) == TRAJECTORIES.rows
    for draft, output in finished:
        segments = split_output(output)
        assert format_fault(segments) is None, output
        assert extract_answer(segments), output
        used = {tool for tool, count in executed_tools(segments).items() if count}
        expected = {
            "python_only": {"python"},
            "search_only": {"search"},
            "no_tools": set(),
            "mixed": {"python", "search"},
        }
        assert used == expected[draft.category], output


def test_trajectories_vary_in_the_features_of_the_shaping_term(finished):
    bigrams, offsets = Counter(), set()
    for _, output in finished:
        segments = split_output(output)
        sequence = actions(segments)
        bigrams.update(zip(sequence, sequence[1:], strict=False))
        offsets.add(first_tool_offset(segments))
    for pair in (
        ("python", "answer"),
        ("python", "think"),
        ("think", "python"),
        ("think", "answer"),
        ("search", "think"),
        ("search", "answer"),
    ):
        assert bigrams[pair] >= 10, bigrams
    assert len(offsets) > 20


def test_with_fail_first_the_second_call_corrects_the_first():
    problem = draw(Random(0), {"story:2": 1}, "sft", 1)[0]
    draft = python_draft(problem, Random(0), Habits(fail_first=1.0, check=0.0, think_long=0.0))
    assert len(draft.turns) == 3 and draft.expects == [None, problem.output]
    with PythonTool(workers=1, timeout_s=20) as tool:
        wrong = tool.run(draft.turns[0].split("<python>")[1].removesuffix("</python>"))
    assert wrong.text != problem.output


def test_results_in_trajectories_are_what_the_tool_prints():
    problem, habits = draw(Random(0), {"story:2": 1}, "sft", 1)[0], Habits(fail_first=1.0, check=0.0, think_long=0.0)
    unfinished = [python_draft(problem, Random(seed), habits) for seed in range(8)]
    with PythonTool(workers=1, timeout_s=20) as tool:
        rows = complete(unfinished, lambda codes: [result.text for result in tool.run_many(codes)], lambda _: [])
    results = {segment.text for _, output in rows for segment in split_output(output) if segment.by == "tool"}
    expected = ("Done", "NameError: name 'prnt' is not defined", problem.output)
    assert results == {render_result(text) for text in expected} and len(rows) == len(unfinished)


@pytest.mark.parametrize(
    "mix",
    [
        {"python_only": 0.67, "search_only": 0.24, "no_tools": 0.09},
        {"python_only": 0.4, "search_only": 0.3, "no_tools": 0.1, "mixed": 0.2},
    ],
)
def test_the_shares_of_categories_are_as_configured(world, mix):
    counts = Counter(draft.category for draft in drafts(world, TRAJECTORIES.model_copy(update={"mix": mix})))
    assert {name: round(count / TRAJECTORIES.rows, 2) for name, count in counts.items()} == mix


def test_too_many_trajectories_with_failed_tools_are_an_error(world):
    with pytest.raises(DataError, match="too many trajectories fail"):
        sft_rows(world, TRAJECTORIES, lambda codes: ["?"] * len(codes), lambda queries: ["?"] * len(queries))


def test_alpaca_rows_have_the_instruction(finished):
    rows = alpaca_rows(finished[:3], "do it")
    assert all(set(row) == {"instruction", "input", "output"} and row["instruction"] == "do it" for row in rows)


def test_write_world_writes_all_files_with_the_same_bytes_twice(tmp_path):
    from pyarrow import parquet

    settings = WorldSettings(seed=3, sft_clusters=20, rl_train_rows=8, rl_validation_rows=4, benchmark_rows=4)
    write_world(tmp_path / "a", settings)
    write_world(tmp_path / "b", settings)
    files = sorted(str(path.relative_to(tmp_path / "a")) for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert files == sorted(
        [
            "corpus.jsonl",
            "rl_train.parquet",
            "rl_validation.parquet",
            *(f"benchmarks/{name}.jsonl" for name in BENCHMARKS),
        ]
    )
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)
    table = parquet.read_table(tmp_path / "a" / "rl_train.parquet")
    assert table.column_names == ["data_source", "question", "ability", "reward_model", "extra_info"]
    assert table.num_rows == 8


def test_the_order_in_which_problems_are_configured_does_not_matter(world):
    kinds = {"story:1": 1, "nested:2": 2, "expand:3": 1}
    one, other = (
        TRAJECTORIES.model_copy(update={"problems": dict(items)}) for items in (kinds.items(), sorted(kinds.items()))
    )
    assert drafts(world, one) == drafts(world, other)


def test_the_tokenizers_training_text_has_prompts_and_passages(tmp_path, world, finished):
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in passages(world)))
    (tmp_path / "sft.json").write_text(json.dumps(alpaca_rows(finished, "do it")))
    text = tokenizer_text(tmp_path / "corpus.jsonl", tmp_path / "sft.json")
    assert len(text) == len(passages(world)) + len(finished)
    assert "do it" in text[-1] and "instruction" not in text[-1]


def test_passages_are_rendered_as_upstream_does():
    rows = [Passage("0", '"A"\nfirst', 1.0), Passage("1", '"B"\nsecond\n', 0.5)]
    assert render_passages(rows) == '"A"\nfirst\n\n"B"\nsecond' and render_passages([]) == ""


def test_math_benchmarks_are_the_first_four():
    assert BENCHMARKS[:4] == MATH_BENCHMARKS
