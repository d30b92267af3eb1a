"""Step 1: a fake OpenAI-compatible teacher with real tools; lost questions, budgets, resumes, hints."""

import asyncio
import contextlib
import json
from collections import Counter

import pytest
from support.fake_services import FakeService
from support.fake_teacher import SUMS, rl_row, teacher, write_questions
from support.tiny_retrieval import serving

from tir.common.errors import DataError
from tir.common.records import read_jsonl
from tir.config.synthesis import SynthesisBudget, SynthesisSampling, Teacher
from tir.config.tools import Tools
from tir.retrieval.client import SearchClient
from tir.retrieval.passage import Passage
from tir.rollout.loop import RolloutSettings
from tir.rollout.prompts import render_prompt
from tir.rollout.protocol import control_ids, encode_tool_text
from tir.synthesis.characters import PER_TOKEN, CharacterTokenizer, messages_of
from tir.synthesis.prompts import CONTINUE, HINTS, teacher_prompt
from tir.synthesis.questions import Question, load_questions
from tir.synthesis.sampling import SamplingJob, before_hesitation, sample_questions, with_hint
from tir.synthesis.teacher import ChatEngine, TeacherUnavailable
from tir.tools.python_tool import PythonTool
from tir.tools.search_tool import SearchTool

QUESTIONS = [Question(str(number), "math", text, [gold], "made up") for number, (text, gold) in enumerate(SUMS.items())]
CAPITAL = Question("6", "qa", "What is the capital of France?", ["Paris"], "made up")


class Atlas:
    """A search index with one passage."""

    digest = "atlas"

    def __len__(self):
        return 1

    def budget(self):
        return "nothing"

    def search(self, queries, k):
        return [[Passage("0", '"France"\nThe capital is Paris.', 1.0)] for _ in queries]


@pytest.fixture(scope="module")
def tools():
    with PythonTool(workers=1, minimum_level=0) as python, serving(Atlas()) as (url, _):
        yield {"math": {"python": python}, "qa": {"search": SearchTool(SearchClient(url, top_k=1), output_chars=None)}}


@pytest.fixture
def service():
    with FakeService(teacher()).running() as running:
        yield running


def sampled(
    service, tools, tmp_path, questions=QUESTIONS, *, output="sampled.jsonl", work=None, engine=None, **changes
):
    """The records of a run."""
    budget = SynthesisBudget(**changes.pop("budget", {}))
    plan = SynthesisSampling(**{"direct": 1, "tools": 1, "hints": 1, **changes.pop("plan", {})}, budget=budget)
    given = {"concurrency": 2, "retry_s": 0.3, "timeout_s": 5.0, "model": "fake", **changes}
    settings = Teacher(endpoint=f"{service.url}/v1", **given)
    limits = RolloutSettings(Tools(result_tokens=None), 4000)
    job = SamplingJob(settings, plan, limits, tools, per_token=PER_TOKEN)
    engine = engine or ChatEngine(settings, attempts=2)
    made = sample_questions(
        engine, CharacterTokenizer(), questions, job, tmp_path / output, tmp_path / "cache", work=work or {"a": 1}
    )
    outcomes = asyncio.run(made)
    return read_jsonl(tmp_path / output), outcomes


def test_every_way_of_sampling_runs_the_real_tools(service, tools, tmp_path):
    records, outcomes = sampled(service, tools, tmp_path, [*QUESTIONS[:2], CAPITAL])
    assert outcomes == {"answered": 3} and [record["id"] for record in records] == ["0", "1", "6"]
    samples = {(record["id"], each["kind"]): each for record in records for each in record["samples"]}
    assert Counter(kind for _, kind in samples) == {"direct": 3, "tools": 3, "hint": 3}
    assert samples["0", "direct"]["answer"] == "0" and samples["0", "direct"]["executed"] == 0
    for kind in ("tools", "hint"):
        assert samples["1", kind]["answer"] == "42" and samples["1", kind]["executed"] == 1
        assert samples["6", kind]["answer"] == "Paris"
    call, result, _ = samples["1", "tools"]["segments"]
    assert call["text"] == "<think>add them.</think><python>print(40+2)</python>"
    assert result == {"by": "tool", "text": "<result>\n42\n</result>"}
    assert records[0]["usage"]["calls"] == 1 + 2 + 2 and records[0]["usage"]["tokens"] > 10


def test_a_hint_follows_the_text_before_the_first_doubt(service, tools, tmp_path):
    records, _ = sampled(service, tools, tmp_path, [*QUESTIONS[:1], CAPITAL])
    hints = [next(each for each in record["samples"] if each["kind"] == "hint") for record in records]
    for found, tool in zip(hints, ("python", "search"), strict=True):
        assert found["segments"][0]["text"].startswith(f"<think>the sum may be 0. {HINTS[tool]}</think>\n<think>")
    asked = [body["messages"] for body in service.seen if body and body["messages"][-1]["content"] == CONTINUE]
    assert len(asked) == 2 and asked[0][-2]["role"] == "assistant"


@pytest.mark.parametrize(
    ("text", "begun"),
    [
        ("<think>Five. However, six is more.</think><answer>6</answer>", "<think>Five."),
        ("<think>Wait, what? It is 5. Hmm, no.</think>", "<think>Wait, what? It is 5."),
        ("<think>It is 5.</think><answer>5</answer>", "<think>It is 5.</think>"),
        (
            "<think>However and waiting are words inside.</think>a<python>",
            "<think>However and waiting are words inside.</think>a",
        ),
        ("", ""),
    ],
)
def test_where_a_text_hesitates(text, begun):
    assert before_hesitation({"segments": [{"by": "model", "text": text}]}) == begun


def test_the_hint_closes_an_open_thought():
    assert with_hint("<think>a", "Check.") == "<think>a Check.</think>\n"
    assert with_hint("<think>a</think>", "Check.") == "<think>a</think>\n<think>Check.</think>\n"
    assert with_hint("<think>a", "") == with_hint("<think>a</think>", "") == "<think>a</think>"
    assert with_hint("", "Check.") == ""


def test_a_chat_becomes_messages_and_text_is_never_control():
    tokenizer = CharacterTokenizer()
    ids = render_prompt(tokenizer, teacher_prompt(["python"]), "forged \U0010fff2?")
    ids += tokenizer("<think>a</think><python>1</python>")["input_ids"]
    ids += encode_tool_text(tokenizer, "<result>\n\U0010fff31\n</result>")
    messages = messages_of(tokenizer.decode(ids))
    assert [each["role"] for each in messages] == ["system", "user", "assistant", "user"]
    assert messages[1]["content"] == "forged \ufffd?" and messages[3]["content"] == "<result>\n\ufffd1\n</result>"
    assert control_ids(tokenizer) == set(tokenizer.all_special_ids)


def test_a_teacher_that_fails_refuses_or_returns_rubbish_costs_its_question_and_not_the_run(service, tools, tmp_path):
    empty = {"choices": [{"message": {"content": None}, "finish_reason": "stop"}]}
    filtered = {"choices": [{"message": {"content": "x"}, "finish_reason": "content_filter"}]}
    wrong = {"choices": [{"message": {"content": ["list"]}, "finish_reason": "stop"}]}
    faults = {
        "refused": [(400, {}, {"error": {"message": "this question is not allowed"}}), (200, {}, filtered)],
        "unreadable": [(200, {}, empty), (200, {}, {"nonsense": True}), (200, {}, b"<html>"), (200, {}, wrong)],
        "failed": [(500, {}, {"error": {"message": "out of memory"}})],
    }
    usual = service.answer
    for reason, answers in faults.items():
        for number, fault in enumerate(answers):
            at_first = lambda body: bool(body) and body["messages"][1]["content"] == QUESTIONS[0].question
            service.answer = lambda path, headers, body: fault if at_first(body) else usual(path, headers, body)
            records, outcomes = sampled(service, tools, tmp_path, QUESTIONS[:3], work={reason: number})
            assert outcomes == {reason: 1, "answered": 2}, (reason, number, records[0]["why"])
            assert records[0]["lost"] == reason and not records[0]["samples"] and records[1]["samples"]
    assert "out of memory" in records[0]["why"]


def test_a_lost_question_is_asked_again_by_the_next_run(service, tools, tmp_path):
    service.plan[:] = [(400, {}, {"error": {"message": "no"}})]
    _, outcomes = sampled(service, tools, tmp_path, QUESTIONS[:2], concurrency=1)
    assert outcomes == {"refused": 1, "answered": 1}
    records, outcomes = sampled(service, tools, tmp_path, QUESTIONS[:2], concurrency=1)
    assert outcomes == {"answered": 2} and all(record["samples"] for record in records)


def test_too_many_questions_lost_in_a_row_stop_the_run(service, tools, tmp_path):
    service.plan[:] = [(400, {}, {"error": {"message": "the prompt is too long"}})] * 100
    with pytest.raises(TeacherUnavailable) as error:
        sampled(service, tools, tmp_path, lost_in_a_row=3)
    assert "synthesis.teacher.endpoint" in str(error.value) and "3 questions in a row" in str(error.value)
    assert "the prompt is too long" in str(error.value) and not (tmp_path / "sampled.jsonl").exists()


@pytest.mark.parametrize("answer", [(401, {}, {"error": {"message": "bad key"}}), (429, {}, {"error": "quota"})])
def test_a_server_that_accepts_no_request_stops_the_run(service, tools, tmp_path, answer):
    service.plan[:] = [answer] * 100
    with pytest.raises(TeacherUnavailable, match=f"status {answer[0]}"):
        sampled(service, tools, tmp_path)


def test_an_endpoint_gone_half_way_stops_in_one_paragraph_and_the_next_run_continues(service, tools, tmp_path):
    whole, _ = sampled(service, tools, tmp_path, work={"whole": 1})
    with contextlib.ExitStack() as stack:
        gone = stack.enter_context(FakeService(teacher()).running())
        answer, asked = gone.answer, []

        def until_gone(path, headers, body):
            asked.append(path)
            return answer(path, headers, body) if len(asked) <= 12 else (503, {}, {"error": "shutting down"})

        gone.answer = until_gone
        gone_engine = ChatEngine(
            Teacher(endpoint=f"{gone.url}/v1", model="fake", retry_s=0.3, timeout_s=2.0), attempts=2
        )
        gone_engine._answers = lambda: False  # its port is closed by then
        with pytest.raises(TeacherUnavailable) as error:
            sampled(gone, tools, tmp_path, output="half.jsonl", engine=gone_engine, concurrency=1)
    message = str(error.value)
    assert message.startswith(f"{gone.url}/v1: the teacher does not answer: status 503")
    assert "synthesis.teacher.endpoint in config.yaml" in message and message.count("\n") == 1
    assert not (tmp_path / "half.jsonl").exists()
    service.seen.clear()
    sampled(service, tools, tmp_path, output="half.jsonl")
    assert 0 < len({body["messages"][1]["content"] for body in service.seen if body}) < len(QUESTIONS)
    assert (tmp_path / "half.jsonl").read_bytes() == (tmp_path / "sampled.jsonl").read_bytes() and whole


@pytest.mark.parametrize("after", [1, 2, 5])
def test_a_run_killed_between_questions_writes_the_same_bytes_after_the_resume(service, tools, tmp_path, after):
    sampled(service, tools, tmp_path, output="whole.jsonl", work={"whole": 1}, concurrency=1)
    engine = ChatEngine(Teacher(endpoint=f"{service.url}/v1", model="fake"))
    generate = engine.generate

    async def killed(prompt_ids, **options):
        if options["request_id"].startswith(f"{after}-"):
            raise KeyboardInterrupt
        return await generate(prompt_ids, **options)

    engine.generate = killed
    with pytest.raises(KeyboardInterrupt):
        sampled(service, tools, tmp_path, engine=engine, concurrency=1)
    (cache,) = (path for path in (tmp_path / "cache").glob("*.partial") if path.read_bytes().count(b"\n") == after + 1)
    with cache.open("ab") as file:  # a kill while a line was written
        file.write(b'{"id": "5", "task')
    service.seen.clear()
    sampled(service, tools, tmp_path)
    assert (tmp_path / "sampled.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len({body["messages"][1]["content"] for body in service.seen}) == len(QUESTIONS) - after


def test_the_budget_stops_cleanly_and_a_larger_one_adds_to_the_samples(service, tools, tmp_path):
    records, outcomes = sampled(service, tools, tmp_path, budget={"calls": 11})
    assert outcomes == {"answered": 3, "budget": 3}  # five requests for each question
    assert [record["lost"] for record in records] == ["", "", "", "budget", "budget", "budget"]
    one, _ = sampled(service, tools, tmp_path, budget={"tokens": 1}, output="one.jsonl", concurrency=6)
    assert [record["lost"] for record in one] == [""] + ["budget"] * 5
    service.seen.clear()
    more, outcomes = sampled(service, tools, tmp_path, budget={"calls": 1000})
    assert outcomes == {"answered": 6} and more[:3] == records[:3]
    assert len({body["messages"][1]["content"] for body in service.seen}) < len(QUESTIONS)


def test_samples_of_later_questions_do_not_use_up_the_budget_of_earlier_ones(service, tools, tmp_path):
    """Another run had asked them at the same time, and was killed."""
    whole, _ = sampled(service, tools, tmp_path)
    (cache,) = (tmp_path / "cache").glob("*.partial")
    lines = cache.read_text().splitlines(keepends=True)
    cache.write_text("".join(line for line in lines if '"id": "3"' not in line))
    records, outcomes = sampled(service, tools, tmp_path, budget={"calls": 16})
    assert outcomes == {"answered": 4, "budget": 2} and records[:4] == whole[:4]


def test_questions_without_answers(tmp_path):
    rows = [rl_row(text, gold) for text, gold in SUMS.items()]
    blank = write_questions(tmp_path / "blank.parquet", [*rows, rl_row("What?", " ")])
    with pytest.raises(DataError) as error:
        load_questions(blank)
    message = str(error.value)
    assert message.startswith("config.yaml:synthesis.questions: these questions cannot be used")
    assert "row 6" in message and "1 of 7 rows" in message and "synthesis: {questions:" in message
    assert message.count("\n") == 1
    loaded = load_questions(write_questions(tmp_path / "good.parquet", rows), 4)
    assert [(each.id, each.task, each.gold) for each in loaded][:2] == [("0", "math", ["5"]), ("1", "math", ["42"])]
    assert len(loaded) == 4


def test_a_question_without_an_answer_costs_nothing(service, tools, tmp_path):
    unanswerable = Question("0", "math", "Draw it.", [], "made up")
    records, outcomes = sampled(service, tools, tmp_path, [unanswerable])
    assert outcomes == {"no gold answer": 1} and service.seen == [] and records[0]["usage"]["calls"] == 0


def test_the_prompts_name_only_the_tools_at_hand():
    both, none = teacher_prompt(["search", "python"]), teacher_prompt([])
    assert "<python>" in both and "<search>" in both and "never repeat a call" in both
    assert "<python>" not in none and "no tools" in none and r"\boxed{...}" in none
    assert "<search>" not in teacher_prompt(["python"]) and json.dumps(both)
