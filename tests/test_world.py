"""The generated world: formats, disjoint splits, and trajectories that keep the protocol."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from tir.errors import ConfigError, DataError
from tir.protocol import actions, executed_tools, extract_answer, first_tool_offset, format_fault, split_output, tool_call
from tir.retrieval.passage import Passage
from tir.retrieval.render import render_passages
from tir.tools.python_tool import PythonTool
from tir.world.benchmarks import BENCHMARKS, MATH_BENCHMARKS, benchmark_rows, math_problems, qa_questions
from tir.world.drafts import Habits, python_draft
from tir.world.entities import QA_BENCHMARKS, WorldSettings, build_world, passage_text, passages
from tir.world.files import tokenizer_text, write_world
from tir.world.names import syllables_apart, unique_names
from tir.world.problems import FAMILIES, draw, latex, split_of
from tir.world.questions import all_questions
from tir.world.rl import rl_rows
from tir.world.trajectories import TrajectorySettings, alpaca_rows, complete, drafts, sft_rows

SETTINGS = WorldSettings(seed=3, sft_clusters=60, rl_train_rows=80, rl_validation_rows=24, benchmark_rows=12)
TRAJECTORIES = TrajectorySettings(rows=600)


@pytest.fixture(scope="module")
def world():
    return build_world(SETTINGS)


@pytest.fixture(scope="module")
def finished(world):
    """Trajectories whose tools were played: programs print what is expected, searches find the entity they name."""
    made = drafts(world, TRAJECTORIES)
    printed = {tool_call(turn).body: expected or "Done" for draft in made
               for turn, expected in zip(draft.turns, draft.expects, strict=False)}

    def search(queries: list[str]) -> list[str]:
        named = [[entity for name, entity in world.by_name.items() if query.endswith(name)] for query in queries]
        return [passage_text(found[0]) if found else "nothing" for found in named]

    return complete(made, lambda codes: [printed[code] for code in codes], search)


def test_the_same_seed_gives_the_same_world_and_another_another(world):
    again, other = build_world(SETTINGS), build_world(replace(SETTINGS, seed=4))
    assert passages(world) == passages(again) and benchmark_rows(world) == benchmark_rows(again)
    assert rl_rows(world, "rl_train") == rl_rows(again, "rl_train")
    assert not {row["contents"] for row in passages(world)} & {row["contents"] for row in passages(other)}


def test_default_world_has_thousands_of_distinct_names():
    entities = list(build_world(WorldSettings()).entities())
    assert len(entities) > 3000
    assert len({entity.name for entity in entities}) == len(entities)


def test_more_names_than_spellings_is_an_error():
    with pytest.raises(ConfigError, match="sft_clusters"):
        unique_names(10**7, Random(0))


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
            assert set(row) == {"question", "answer"} and row["answer"] and all(isinstance(g, str) for g in row["answer"])
    assert all(len(row["answer"]) == 1 for name in ("hotpotqa", "bamboogle") for row in rows[name])
    assert any(len(row["answer"]) > 1 for row in rows["2wiki"]) and any(len(row["answer"]) > 1 for row in rows["musique"])


def test_benchmarks_are_graded(world):
    operations = {name: sum(p.operations for p in problems) / len(problems) for name, problems in math_problems(world).items()}
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
        assert len({row["ability"] for row in rows[:12]}) == 2  # shuffled: a head is a mix


def test_no_question_is_in_two_splits(world):
    asked = {"sft": {draft.question for draft in drafts(world, replace(TRAJECTORIES, rows=3000))}}
    for split in ("rl_train", "rl_validation"):
        asked[split] = {row["question"] for row in rl_rows(world, split)}
    for name, rows in benchmark_rows(world).items():
        questions = [row.get("question") or row["problem"] for row in rows]
        assert len(set(questions)) == len(questions)
        asked[name] = set(questions)
    names = list(asked)
    for position, left in enumerate(names):
        for right in names[position + 1 :]:
            assert not asked[left] & asked[right], (left, right)


def test_no_entity_or_fact_is_asked_in_two_splits(world):
    facts, entities = {}, {}
    for split in world.splits:
        questions = [q for hops in (1, 2) for q in all_questions(world, split, hops, Random(1))]
        facts[split] = {fact for question in questions for fact in question.facts}
        entities[split] = {entity for entity, _ in facts[split]}
    names = list(facts)
    for position, left in enumerate(names):
        for right in names[position + 1 :]:
            assert not facts[left] & facts[right] and not entities[left] & entities[right], (left, right)


def test_no_expression_is_in_two_splits():
    mix = {"story:1": 1, "story:3": 1, "solve:2": 1, "nested:2": 1, "remainder:3": 1}
    codes = {split: {problem.code for problem in draw(Random(0), mix, split, 200)}
             for split in ("sft", "rl_train", "rl_validation", "benchmark")}
    assert all(split_of(code) == split for split, found in codes.items() for code in found)


def test_two_hop_answer_is_not_in_the_first_passage(world):
    by_name = world.by_name
    leaked = [question for question in all_questions(world, "sft", 2, Random(0))
              if question.answer in by_name[question.hops[0].entity].facts.values()]
    assert len(leaked) < 0.1 * len(all_questions(world, "sft", 2, Random(0)))


@pytest.mark.parametrize("family", FAMILIES)
def test_programs_print_what_the_problem_says(family):
    random = Random(family)
    problems = [FAMILIES[family](random, 1 + number % 3) for number in range(12)]
    with PythonTool(workers=1, timeout_s=20) as tool:
        results = tool.run_many([f"print({problem.code})" for problem in problems])
    assert [result.text for result in results] == [problem.output for problem in problems]


def test_latex_of_printed_values():
    assert latex("7/3") == r"\frac{7}{3}" and latex("-7/3") == r"-\frac{7}{3}" and latex("12") == "12"
    assert latex("x**2 - 12*x + 35") == "x^2 - 12x + 35"


def test_trajectories_keep_the_protocol_and_end_in_the_answer(world, finished):
    assert len(finished) == TRAJECTORIES.rows
    for draft, output in finished:
        segments = split_output(output)
        assert format_fault(segments) is None, output
        assert extract_answer(segments), output
        used = {tool for tool, count in executed_tools(segments).items() if count}
        expected = {"python_only": {"python"}, "search_only": {"search"}, "no_tools": set(), "mixed": {"python", "search"}}
        assert used == expected[draft.category], output


def test_trajectories_vary_what_shaping_acts_on(finished):
    bigrams, offsets = Counter(), set()
    for _, output in finished:
        segments = split_output(output)
        sequence = actions(segments)
        bigrams.update(zip(sequence, sequence[1:], strict=False))
        offsets.add(first_tool_offset(segments))
    for pair in (("python", "answer"), ("python", "think"), ("think", "python"), ("search", "think"), ("search", "answer")):
        assert bigrams[pair] >= 10, bigrams
    assert bigrams["python", "answer"] > bigrams["python", "think"]
    assert len(offsets) > 20


def test_first_attempts_fail_and_are_mended():
    problem = draw(Random(0), {"story:2": 1}, "sft", 1)[0]
    draft = python_draft(problem, Random(0), Habits(fail_first=1.0, verify=0.0))
    assert len(draft.turns) == 3 and draft.expects == [None, problem.output]
    with PythonTool(workers=1, timeout_s=20) as tool:
        wrong = tool.run(draft.turns[0].split("<python>")[1].removesuffix("</python>"))
    assert wrong.text != problem.output


@pytest.mark.parametrize("mix", [{"python_only": 0.67, "search_only": 0.24, "no_tools": 0.09},
                                 {"python_only": 0.4, "search_only": 0.3, "no_tools": 0.1, "mixed": 0.2}])
def test_mix_of_categories_is_as_configured(world, mix):
    counts = Counter(draft.category for draft in drafts(world, replace(TRAJECTORIES, mix=mix)))
    assert {name: round(count / TRAJECTORIES.rows, 2) for name, count in counts.items()} == mix


def test_a_mix_that_does_not_add_up_is_an_error(world):
    with pytest.raises(ConfigError, match="add up"):
        drafts(world, replace(TRAJECTORIES, mix={"python_only": 0.5}))


def test_rows_whose_tools_fail_are_left_out_and_too_many_are_an_error(world):
    with pytest.raises(DataError, match="too many trajectories fail"):
        sft_rows(world, TRAJECTORIES, lambda codes: ["?"] * len(codes), lambda queries: ["?"] * len(queries))


def test_alpaca_rows_carry_the_instruction(finished):
    rows = alpaca_rows(finished[:3], "do it")
    assert all(set(row) == {"instruction", "input", "output"} and row["instruction"] == "do it" for row in rows)


def test_written_world(tmp_path):
    from pyarrow import parquet

    params = {"seed": 3, "sft_clusters": 20, "rl_train_rows": 8, "rl_validation_rows": 4, "benchmark_rows": 4,
              "trajectories": {"rows": 10, "habits": {"verify": 0.1}}}
    write_world(tmp_path / "a", params)
    write_world(tmp_path / "b", params)
    files = sorted(str(path.relative_to(tmp_path / "a")) for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert files == sorted(["corpus.jsonl", "rl_train.parquet", "rl_validation.parquet",
                            *(f"benchmarks/{name}.jsonl" for name in BENCHMARKS)])
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)
    table = parquet.read_table(tmp_path / "a" / "rl_train.parquet")
    assert table.column_names == ["data_source", "question", "ability", "reward_model", "extra_info"]
    assert table.num_rows == 8


@pytest.mark.parametrize("params", [{"sed": 3}, {"trajectories": {"rowz": 3}}, {"trajectories": {"habits": {"x": 1}}}])
def test_unknown_keys_are_named(tmp_path, params):
    with pytest.raises(ConfigError, match="unknown key"):
        write_world(tmp_path, params)


def test_tokenizer_text_breaks_names_apart(tmp_path, world, finished):
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in passages(world)))
    (tmp_path / "sft.json").write_text(json.dumps(alpaca_rows(finished, "do it")))
    text = "".join(tokenizer_text(tmp_path / "corpus.jsonl", tmp_path / "sft.json"))
    assert "instruction" not in text and "do it" in text
    assert not [entity.name for entity in world.entities() if entity.name in text]
    assert syllables_apart("in Balbabelia.") == "in Bal\nba\nbel\nia."


def test_passages_are_joined_as_upstream_does():
    rows = [Passage("0", '"A"\nfirst', 1.0), Passage("1", '"B"\nsecond\n', 0.5)]
    assert render_passages(rows) == '"A"\nfirst\n\n"B"\nsecond' and render_passages([]) == ""


def test_math_benchmarks_are_the_first_four():
    assert BENCHMARKS[:4] == MATH_BENCHMARKS
