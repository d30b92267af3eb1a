"""The rollout loop: token-in/token-out, budgets, notices, typed faults, concurrency, and resumed trace files."""

import asyncio
import contextlib
import json
import time
from types import SimpleNamespace

import pytest
from support.qwen_like import qwen_like_tokenizer
from support.rollouts import ANSWER, CALL, Echo, Script, limits
from support.tiny_retrieval import FakeIndex, bm25_directory, corpus, serving  # noqa: F401  (fixtures)

from scripts.generate_traces import resume_key
from tir.common.errors import SearchUnavailable, WrongIndex
from tir.common.records import read_jsonl
from tir.common.resumable import ResumableWriter
from tir.config.tools import Tools
from tir.data.benchmarks import Item
from tir.retrieval.client import SearchClient
from tir.retrieval.index import load_index
from tir.retrieval.sidecar import retrieval
from tir.rollout.engines.base import Sampling
from tir.rollout.loop import BUDGET_NOTICE, TAG_NOTICE, rollout
from tir.rollout.protocol import STOP_STRINGS, format_fault
from tir.rollout.traces import TraceJob, generate_traces
from tir.tools.search_tool import SearchTool


def roll_out(engine, tools, settings=limits(), prompt=(5, 6, 7)):
    return asyncio.run(rollout(engine, qwen_like_tokenizer(), list(prompt), tools, settings, Sampling(), "r"))


def test_token_in_token_out():
    engine, tool = Script(CALL, ANSWER), Echo("<|im_end|> 1")
    trajectory = roll_out(engine, {"python": tool})
    assert tool.calls == ["print(1)"] and trajectory.finish == "answer"
    assert [segment.by for segment in trajectory.segments] == ["model", "tool", "model"]
    assert len(trajectory.response_ids) == len(trajectory.response_mask) == len(trajectory.response_log_probs)
    # The second prompt is the first one followed by the recorded ids.
    first, second = engine.prompts["r"]
    assert second == first + trajectory.segments[0].token_ids + trajectory.segments[1].token_ids
    specials = set(qwen_like_tokenizer().all_special_ids)
    assert specials.isdisjoint(trajectory.segments[1].token_ids)
    assert (
        trajectory.segments[2].text == r"<answer>\boxed{1}</answer>"
        and trajectory.segments[2].token_ids[-1] in specials
    )
    mask_of_tool = trajectory.response_mask[len(trajectory.segments[0].token_ids) :][
        : len(trajectory.segments[1].token_ids)
    ]
    assert set(mask_of_tool) == {0} and sum(trajectory.response_mask) == sum(
        len(segment.token_ids) for segment in trajectory.segments if segment.by == "model"
    )


def test_a_call_beyond_the_budget_gets_a_notice_and_the_next_one_ends_the_trajectory():
    tool = Echo()
    trajectory = roll_out(Script(CALL), {"python": tool}, limits(budget=2))
    assert len(tool.calls) == 2 and trajectory.executed["python"] == 2 and trajectory.emitted["python"] == 4
    assert trajectory.finish == "budget" and BUDGET_NOTICE in trajectory.segments[-2].text


def test_a_budget_can_be_set_by_tag():
    python, search = Echo("p"), Echo("s")
    trajectory = roll_out(
        Script(CALL, CALL, "<search>x</search>", CALL, ANSWER),
        {"python": python, "search": search},
        limits(budget={"python": 2, "search": 1}),
    )
    assert trajectory.executed == {"python": 2, "search": 1} and trajectory.finish == "answer"
    assert BUDGET_NOTICE in trajectory.segments[-2].text and trajectory.emitted == {"python": 3, "search": 1}


def test_a_notice_names_the_tag_if_another_tool_has_calls_left():
    python, search = Echo("p"), Echo("s")
    query = "<search>x</search>"
    trajectory = roll_out(
        Script(CALL, CALL, query, query, query),
        {"python": python, "search": search},
        limits(budget={"python": 1, "search": 1}),
    )
    results = [segment.text for segment in trajectory.segments if segment.by == "tool"]
    assert len(results) == 4 and TAG_NOTICE.format(tag="python") in results[1]
    assert "s" in results[2] and BUDGET_NOTICE in results[3]
    assert trajectory.finish == "budget" and trajectory.executed == {"python": 1, "search": 1}


def test_over_budget_end_adds_an_end_token_with_mask_1():
    trajectory = roll_out(Script(CALL), {"python": Echo()}, limits(budget=1, over_budget="end"))
    assert trajectory.finish == "budget" and trajectory.emitted["python"] == 2 and trajectory.executed["python"] == 1
    assert trajectory.response_ids[-1] == qwen_like_tokenizer().eos_token_id and trajectory.response_mask[-1] == 1
    assert len(trajectory.response_ids) == len(trajectory.response_log_probs) and format_fault(trajectory.segments)


def test_over_budget_continue_generates_on_without_stop_strings():
    engine = Script(CALL, CALL, "<result>made up</result>" + CALL + ANSWER, stops=(STOP_STRINGS, STOP_STRINGS, ()))
    trajectory = roll_out(engine, {"python": Echo()}, limits(budget={"python": 1}, over_budget="continue"))
    assert trajectory.finish == "answer" and trajectory.executed["python"] == 1
    assert [segment.by for segment in trajectory.segments] == ["model", "tool", "model", "model"]


@pytest.mark.parametrize("last", ["><", ">print"])  # tokens of Qwen2.5: `><`, `>\n`, and 99 words such as `>The`
def test_a_call_whose_last_token_carries_more_is_executed(last):
    tokenizer, text = qwen_like_tokenizer(), f"<python>print(1)</python{last}"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"][-1:]) == last
    tool = Echo()
    trajectory = roll_out(Script(text, ANSWER), {"python": tool})
    assert tool.calls == ["print(1)"] and trajectory.segments[0].text == text and trajectory.finish == "answer"


def test_caps_may_be_by_tag_and_hold_in_tokens():
    text = "x" * 300 + "漢字🙂" * 100 + "END"
    for settings, most in (
        (limits(result_tokens=50), 50),
        (limits(result_tokens={"python": 60, "search": 16}), 60),
    ):
        trajectory = roll_out(Script(CALL, ANSWER), {"python": Echo(text)}, settings)
        assert len(trajectory.segments[1].token_ids) <= most and "END" in trajectory.segments[1].text
    for uncapped in (limits(result_tokens=None), limits(result_tokens={"search": 16})):
        assert text in roll_out(Script(CALL, ANSWER), {"python": Echo(text)}, uncapped).segments[1].text


def test_a_result_beyond_the_maximum_length_is_left_out():
    trajectory = roll_out(Script(CALL, ANSWER), {"python": Echo("x" * 500)}, limits(max_response_tokens=60))
    assert (
        trajectory.finish == "length" and len(trajectory.response_ids) <= 60 and trajectory.segments[-1].by == "model"
    )


def test_a_call_of_an_unavailable_tool_gets_a_notice():
    trajectory = roll_out(Script("<search>x</search>", ANSWER), {"python": Echo()})
    assert "not available" in trajectory.segments[1].text and trajectory.executed == {"python": 0}


def test_calls_of_an_unavailable_tool_count_towards_the_budget():
    trajectory = roll_out(Script("<search>x</search>"), {"python": Echo()})
    assert trajectory.finish == "budget" and [segment.by for segment in trajectory.segments].count("tool") == 3 + 1


class Seeds(Script):
    """The scripted engine; records the seeds of a trajectory's requests."""

    def __init__(self, *turns):
        super().__init__(*turns)
        self.seen = {}

    async def generate(self, prompt_ids, *, sampling, request_id, **options):
        self.seen.setdefault(request_id, []).append(sampling.seed)
        return await super().generate(prompt_ids, sampling=sampling, request_id=request_id, **options)


@pytest.mark.parametrize("seed", [None, 7])
def test_every_turn_has_a_different_seed(seed):
    engine = Seeds(CALL, CALL, ANSWER)
    for name in ("first", "again"):
        asyncio.run(
            rollout(
                engine,
                qwen_like_tokenizer(),
                [5],
                {"python": Echo()},
                limits(),
                Sampling(temperature=1.0, seed=seed),
                name,
            )
        )
    assert engine.seen["first"] == engine.seen["again"] and len(set(engine.seen["first"])) == (3 if seed else 1)


def test_a_closing_tag_without_an_opening_tag_is_not_a_call():
    tool = Echo()
    assert roll_out(Script("print(1)</python>", ANSWER), {"python": tool}).finish == "answer" and not tool.calls


def test_a_trajectory_does_not_wait_for_anothers_tool():
    async def both():
        slow, fast = Echo(seconds=0.4), Echo(seconds=0.0)
        started = time.monotonic()

        async def seconds(tool, name):
            await rollout(
                Script(CALL, ANSWER), qwen_like_tokenizer(), [1], {"python": tool}, limits(), Sampling(), name
            )
            return time.monotonic() - started

        return await asyncio.gather(seconds(slow, "a"), seconds(fast, "b"))

    slow, fast = asyncio.run(both())
    assert slow >= 0.4 and fast < 0.2


ITEMS = [Item(str(number), f"what is {number}?", [str(number)]) for number in range(6)]


def job(**changes):
    return TraceJob(
        **(
            {
                "task": "math",
                "system_prompt": "help",
                "settings": limits(),
                "sampling": Sampling(),
                "samples": 1,
                "concurrency": 64,
            }
            | changes
        )
    )


@pytest.fixture
def tokenizer():
    return qwen_like_tokenizer()


def test_traces_resume_inside_a_benchmark(tmp_path, tokenizer, capsys):
    output = tmp_path / "gsm8k.jsonl"
    unavailable = Echo(fault=SearchUnavailable("gone"), faults=10**9)

    class FailsAfterThreeCalls(Echo):
        async def call(self, body):
            if len(self.calls) >= 3:
                return await unavailable.call(body)
            return await super().call(body)

    with pytest.raises(SearchUnavailable):
        asyncio.run(
            generate_traces(
                Script(CALL, ANSWER),
                tokenizer,
                {"python": FailsAfterThreeCalls()},
                ITEMS,
                job(concurrency=1),
                output,
                work={"a": 1},
            )
        )
    assert not output.exists()
    partial = (tmp_path / "gsm8k.jsonl.partial").read_text().splitlines()
    assert len(partial) == 1 + 3
    tool = Echo()
    asyncio.run(generate_traces(Script(CALL, ANSWER), tokenizer, {"python": tool}, ITEMS, job(), output, work={"a": 1}))
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(tool.calls) == 3 and [row["id"] for row in rows] == [item.id for item in ITEMS]
    assert rows[0]["answer"] == "1" and rows[0]["n_python"] == 1 and rows[0]["finish"] == "answer"
    assert "resuming: 3 of 6" in capsys.readouterr().err


def test_a_server_that_is_swapped_for_one_with_another_index_stops_the_run(tmp_path, tokenizer, bm25_directory):
    digest, output = load_index(bm25_directory).digest, tmp_path / "hotpotqa.jsonl"

    def run(swap_after: int) -> None:
        with contextlib.ExitStack() as server:
            url, _ = server.enter_context(serving(FakeIndex(digest=digest)))

            class Swapped:
                calls = 0

                async def call(self, body):
                    if self.calls == swap_after:
                        server.close()
                        server.enter_context(serving(FakeIndex(digest="another"), port=int(url.rpartition(":")[2])))
                    self.calls += 1
                    return await tool.call(body)

            with retrieval(bm25_directory, log_path=tmp_path / "log", endpoint=url) as endpoint:
                tool = SearchTool(SearchClient(endpoint, top_k=1, retry_budget_s=5.0), output_chars=None)
                engine = Script("<think>t</think><search>king</search>", ANSWER)
                settings = job(task="qa", settings=limits(routes={"qa": ["search"]}), concurrency=1)
                tools = {"search": Swapped()}
                asyncio.run(generate_traces(engine, tokenizer, tools, ITEMS, settings, output, work={"index": digest}))

    with pytest.raises(WrongIndex, match=f"job's index is {digest}, the server's is another"):
        run(swap_after=3)
    assert not output.exists()
    assert [row.get("id") for row in read_jsonl(tmp_path / "hotpotqa.jsonl.partial")] == [None, "0", "1", "2"]
    run(swap_after=10**9)  # with the right index it continues
    assert [row["n_search"] for row in read_jsonl(output)] == [1] * len(ITEMS)


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\r"])
def test_unicode_line_separators_in_a_record_do_not_split_it(tmp_path, mark):
    def writer():
        return ResumableWriter(tmp_path / "x.jsonl", work=1, key=("id",))

    with writer() as first:
        for number in range(3):
            first.add({"id": number, "text": f"one{mark}two"})
    with writer() as second:
        assert second.done == first.done


def test_every_item_sample_and_turn_has_a_different_seed(tmp_path, tokenizer):
    def seeds(seed):
        engine = Seeds(CALL, CALL, ANSWER)
        asyncio.run(
            generate_traces(
                engine,
                tokenizer,
                {"python": Echo()},
                ITEMS,
                job(sampling=Sampling(1.0, seed=seed), samples=3),
                tmp_path / "x.jsonl",
                work={},
            )
        )
        return engine.seen

    drawn = seeds(0)
    assert len({seed for turns in [*drawn.values(), *seeds(1).values()] for seed in turns}) == 2 * len(ITEMS) * 3 * 3
    assert drawn == seeds(0) and drawn["0-0"][0] == 602144  # a digest: the same in every process


def test_records_of_other_parameters_are_not_resumed(tmp_path, tokenizer):
    output = tmp_path / "x.jsonl"
    (tmp_path / "x.jsonl.partial").write_text(json.dumps({"work": "other"}) + "\n" + '{"id": "0", "sample": 0}\n')
    tool = Echo()
    asyncio.run(generate_traces(Script(CALL, ANSWER), tokenizer, {"python": tool}, ITEMS, job(), output, work={"a": 2}))
    assert len(tool.calls) == 6 and len(list(tmp_path.glob("x.jsonl.partial.*.stale"))) == 1


def test_the_resume_key_covers_the_files_and_code_of_the_tasks_tools(tmp_path, monkeypatch):
    (tmp_path / "manifest.json").write_text("{}")
    for name in ("items", "cassette"):
        (tmp_path / name).write_text("1")
    options = SimpleNamespace(items=tmp_path / "items", index=tmp_path / "index", model=tmp_path, params={})

    def changed(change, *route, mode="replay"):
        tools = Tools(routes={"qa": list(route)}, web_search={"mode": mode, "cassette": str(tmp_path / "cassette")})
        (tmp_path / "index").mkdir(exist_ok=True)
        (tmp_path / "index" / "manifest.json").write_text("{}")
        before = resume_key(options, tools, "qa", "help")
        change()
        return resume_key(options, tools, "qa", "help") != before

    def index():
        (tmp_path / "index" / "manifest.json").write_text('{"backend": "other"}')

    def cassette():
        (tmp_path / "cassette").write_text((tmp_path / "cassette").read_text() + "1")

    assert changed(index, "python", "search") and not changed(index, "python", "web_search")
    assert changed(cassette, "web_search") and not changed(cassette, "search")
    assert not changed(cassette, "web_search", mode="record")
    assert changed(lambda: monkeypatch.setattr("scripts.generate_traces.code_digest", lambda *_: "edited"), "python")


def test_the_resume_key_covers_the_models_that_a_job_serves_to_helpers(tmp_path):
    for name in ("mine", "big"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
    (tmp_path / "items").write_text("1")
    options = SimpleNamespace(items=tmp_path / "items", index="", model=tmp_path / "mine", models=tmp_path, params={})
    keys, tools = [], Tools(routes={"math": ["python"]})
    for content in ("{}", '{"commit": "c"}'):
        (tmp_path / "big" / "manifest.json").write_text(content)
        keys += [resume_key(options, tools, "math", "help", helpers) for helpers in ((), ("big",))]
    assert keys[0] == keys[2] and keys[1] != keys[3]


def test_a_temporary_fault_is_retried(tmp_path, tokenizer, monkeypatch):
    tool = Echo(fault=SearchUnavailable("busy"), faults=2)
    asyncio.run(
        generate_traces(
            Script(CALL, ANSWER), tokenizer, {"python": tool}, ITEMS[:1], job(), tmp_path / "x.jsonl", work={}
        )
    )
    assert len(tool.calls) == 3
