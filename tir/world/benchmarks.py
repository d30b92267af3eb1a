r"""The eight benchmarks in the upstream file formats (`evaluation/data/<set>/test.jsonl`), in several difficulties.

Math, easiest first: gsm8k, math500, aime24, aime25. QA, by share of two-hop questions: bamboogle 0.25, hotpotqa 0.5,
2wiki 0.6, musique 1.
"""

from __future__ import annotations

from random import Random

from tir.world.entities import QA_BENCHMARKS, World
from tir.world.problems import Problem, draw
from tir.world.questions import Question, all_questions

MATH_BENCHMARKS = ("gsm8k", "math500", "aime24", "aime25")
BENCHMARKS = (*MATH_BENCHMARKS, *QA_BENCHMARKS)

_MATH_MIX = {
    "gsm8k": {"story:1": 2, "story:2": 2, "story:3": 1},
    "math500": {"solve:2": 2, "fraction:3": 2, "nested:1": 1},
    "aime24": {"nested:2": 2, "remainder:1": 1},
    "aime25": {"nested:2": 1, "remainder:2": 1},
}
_TWO_HOP_SHARE = {"bamboogle": 0.25, "hotpotqa": 0.5, "2wiki": 0.6, "musique": 1.0}


def _gsm8k(number: int, problem: Problem) -> dict:
    return {
        "question": problem.question,
        "answer": f"{problem.code} = {problem.output}\n#### {problem.answer}",
        "idx": number,
    }


def _math500(number: int, problem: Problem) -> dict:
    return {"question": problem.question, "answer": problem.answer}


def _aime24(number: int, problem: Problem) -> dict:
    return {
        "id": number + 60,
        "problem": problem.question,
        "solution": f"${problem.code} = {problem.output}$",
        "answer": problem.answer.zfill(3),
        "url": "",
        "question": problem.question,
    }


def _aime25(number: int, problem: Problem) -> dict:
    return {"problem": problem.question, "answer": int(problem.answer), "id": str(number)}


_MATH_ROW = {"gsm8k": _gsm8k, "math500": _math500, "aime24": _aime24, "aime25": _aime25}


def math_problems(world: World) -> dict[str, list[Problem]]:
    """Problems of the four math benchmarks; each question occurs in one of them only."""
    rows, seen, chosen = world.settings.benchmark_rows, set(), {}
    for name in MATH_BENCHMARKS:
        random = Random(f"benchmark:{name}:{world.settings.seed}")
        problems = draw(random, _MATH_MIX[name], "benchmark", 2 * rows)
        chosen[name] = [problem for problem in problems if problem.question not in seen][:rows]
        seen.update(problem.question for problem in chosen[name])
    return chosen


def qa_questions(world: World) -> dict[str, list[Question]]:
    """Questions of the four QA benchmarks, about entities that occur in no other split."""
    chosen = {}
    for name in QA_BENCHMARKS:
        random = Random(f"benchmark:{name}:{world.settings.seed}")
        two_hop = round(_TWO_HOP_SHARE[name] * world.settings.benchmark_rows)
        questions = all_questions(world, name, 2, random)[:two_hop]
        questions += all_questions(world, name, 1, random)[: world.settings.benchmark_rows - two_hop]
        random.shuffle(questions)
        chosen[name] = questions
    return chosen


def _golds(name: str, number: int, question: Question) -> list[str]:
    if name == "2wiki":
        return [question.answer, *question.aliases]
    if name == "musique":  # as upstream, most rows have one gold, some have more
        return [question.answer, *(question.aliases if number % 3 == 0 else ())]
    return [question.answer.lower() if name == "bamboogle" and number % 4 == 0 else question.answer]


def benchmark_rows(world: World) -> dict[str, list[dict]]:
    """Rows of every benchmark, with the fields and the type of gold answer of its upstream file."""
    rows = {
        name: [_MATH_ROW[name](number, problem) for number, problem in enumerate(problems)]
        for name, problems in math_problems(world).items()
    }
    for name, questions in qa_questions(world).items():
        rows[name] = [
            {"question": question.text, "answer": _golds(name, number, question)}
            for number, question in enumerate(questions)
        ]
    return rows
