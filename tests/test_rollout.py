"""The rollout loop: token-in/token-out, budgets, notices, typed faults, and no barrier between trajectories."""

import asyncio
import json
import time
from types import SimpleNamespace

import pytest
from qwen_like import qwen_like_tokenizer

from scripts.generate_traces import the_work
from tir.data.benchmarks import Item
from tir.engines.base import Completion, Sampling
from tir.errors import SearchUnavailable
from tir.protocol import STOP_STRINGS, format_fault
from tir.records import ResumableWriter
from tir.rollout import BUDGET_NOTICE, TAG_NOTICE, RolloutSettings, rollout
from tir.tools.base import ToolResult
from tir.traces import TraceJob, generate_traces

CALL = "<think>t</think><python>print(1)</python>"
ANSWER = r"<answer>\boxed{1}</answer><|im_end|>"


class Script:
    """An engine that writes the given turns, one per call, for every trajectory."""

    def __init__(self, *turns: str, seconds: float = 0.0, stops=()):
        self.turns, self.seconds, self.stops, self.prompts = turns, seconds, stops, {}

    async def generate(self, prompt_ids, *, max_tokens, sampling, stop, request_id):
        seen = self.prompts.setdefault(request_id, [])
        if seen and list(prompt_ids) == seen[0]:
            seen.clear()  # a retried trajectory starts over
        assert stop == (self.stops[len(seen)] if self.stops else STOP_STRINGS)
        text = self.turns[min(len(seen), len(self.turns) - 1)]
        seen.append(list(prompt_ids))
        await asyncio.sleep(self.seconds)
        ids = qwen_like_tokenizer()(text, add_special_tokens=False)["input_ids"][:max_tokens]
        finish = "length" if len(ids) == max_tokens else "eos" if text.endswith("<|im_end|>") else "stop"
        return Completion(ids, [-0.5] * len(ids), finish)

    async def close(self):
        pass


class Echo:
    """A tool that answers after a while; or raises."""

    def __init__(self, text="1", seconds=0.0, fault=None, faults=10**9):
        self.text, self.seconds, self.fault, self.faults, self.calls = text, seconds, fault, faults, []

    async def call(self, body):
        self.calls.append(body)
        await asyncio.sleep(self.seconds)
        if self.fault and len(self.calls) <= self.faults:
            raise self.fault
        return ToolResult(self.text, "ok", self.seconds)


def go(engine, tools, settings=RolloutSettings(), prompt=(5, 6, 7)):
    return asyncio.run(rollout(engine, qwen_like_tokenizer(), list(prompt), tools, settings, Sampling(), "r"))


def test_token_in_token_out():
    engine, tool = Script(CALL, ANSWER), Echo("<|im_end|> 1")
    found = go(engine, {"python": tool})
    assert tool.calls == ["print(1)"] and found.finish == "answer"
    assert [segment.by for segment in found.segments] == ["model", "tool", "model"]
    assert len(found.response_ids) == len(found.response_mask) == len(found.response_log_probs)
    # the second prompt is the first plus exactly what was recorded
    first, second = engine.prompts["r"]
    assert second == first + found.segments[0].token_ids + found.segments[1].token_ids
    specials = set(qwen_like_tokenizer().all_special_ids)
    assert specials.isdisjoint(found.segments[1].token_ids)
    assert found.segments[2].text == r"<answer>\boxed{1}</answer>" and found.segments[2].token_ids[-1] in specials
    mask_of_tool = found.response_mask[len(found.segments[0].token_ids) :][: len(found.segments[1].token_ids)]
    assert set(mask_of_tool) == {0} and sum(found.response_mask) == sum(
        len(segment.token_ids) for segment in found.segments if segment.by == "model")


def test_budget_is_told_once_then_ends():
    tool = Echo()
    found = go(Script(CALL), {"python": tool}, RolloutSettings(budget=2))
    assert len(tool.calls) == 2 and found.executed["python"] == 2 and found.emitted["python"] == 4
    assert found.finish == "budget" and BUDGET_NOTICE in found.segments[-2].text


def test_a_budget_may_be_by_tag():
    python, search = Echo("p"), Echo("s")
    found = go(Script(CALL, CALL, "<search>x</search>", CALL, ANSWER), {"python": python, "search": search},
               RolloutSettings(budget={"python": 2, "search": 1}))
    assert found.executed == {"python": 2, "search": 1} and found.finish == "answer"
    assert BUDGET_NOTICE in found.segments[-2].text and found.emitted == {"python": 3, "search": 1}


def test_a_notice_names_the_tag_while_another_one_is_left():
    python, search = Echo("p"), Echo("s")
    query = "<search>x</search>"
    found = go(Script(CALL, CALL, query, query, query), {"python": python, "search": search},
               RolloutSettings(budget={"python": 1, "search": 1}))
    told = [segment.text for segment in found.segments if segment.by == "tool"]
    assert TAG_NOTICE.format(tag="python") in told[1] and "s" in told[2] and BUDGET_NOTICE in told[3] and len(told) == 4
    assert found.finish == "budget" and found.executed == {"python": 1, "search": 1}


def test_upstream_rl_ends_beyond_the_budget_with_an_end_token_that_is_trained_on():
    found = go(Script(CALL), {"python": Echo()}, RolloutSettings(budget=1, over_budget="end"))
    assert found.finish == "budget" and found.emitted["python"] == 2 and found.executed["python"] == 1
    assert found.response_ids[-1] == qwen_like_tokenizer().eos_token_id and found.response_mask[-1] == 1
    assert len(found.response_ids) == len(found.response_log_probs) and format_fault(found.segments)


def test_upstream_evaluation_goes_on_beyond_the_budget_without_stop_strings():
    engine = Script(CALL, CALL, "<result>made up</result>" + CALL + ANSWER, stops=(STOP_STRINGS, STOP_STRINGS, ()))
    found = go(engine, {"python": Echo()}, RolloutSettings(budget={"python": 1}, over_budget="continue"))
    assert found.finish == "answer" and found.executed["python"] == 1
    assert [segment.by for segment in found.segments] == ["model", "tool", "model", "model"]


@pytest.mark.parametrize("last", ["><", ">print"])  # as Qwen2.5 merges: `><`, `>\n`, and 99 words such as `>The`
def test_a_call_whose_last_token_carries_more_is_executed(last):
    tokenizer, text = qwen_like_tokenizer(), f"<python>print(1)</python{last}"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"][-1:]) == last
    tool = Echo()
    found = go(Script(text, ANSWER), {"python": tool})
    assert tool.calls == ["print(1)"] and found.segments[0].text == text and found.finish == "answer"


def test_caps_may_be_by_tag_and_hold_in_tokens():
    text = "x" * 300 + "漢字🙂" * 100 + "END"
    for settings, most in ((RolloutSettings(result_tokens=50), 50), (RolloutSettings(result_tokens={"python": 60, "search": 9}), 60)):
        found = go(Script(CALL, ANSWER), {"python": Echo(text)}, settings)
        assert len(found.segments[1].token_ids) <= most and "END" in found.segments[1].text
    for uncapped in (RolloutSettings(result_tokens=None), RolloutSettings(result_tokens={"search": 9})):
        assert text in go(Script(CALL, ANSWER), {"python": Echo(text)}, uncapped).segments[1].text


def test_length_ends_and_leaves_no_half_result():
    found = go(Script(CALL, ANSWER), {"python": Echo("x" * 500)}, RolloutSettings(max_response_tokens=60))
    assert found.finish == "length" and len(found.response_ids) <= 60 and found.segments[-1].by == "model"


def test_an_absent_tool_is_said():
    found = go(Script("<search>x</search>", ANSWER), {"python": Echo()})
    assert "not available" in found.segments[1].text and found.executed == {"python": 0}


def test_an_absent_tool_has_a_budget_too():
    found = go(Script("<search>x</search>"), {"python": Echo()})
    assert found.finish == "budget" and [segment.by for segment in found.segments].count("tool") == 3 + 1


class Seeds(Script):
    """The scripted engine, remembering every request's seed by trajectory."""

    def __init__(self, *turns):
        super().__init__(*turns)
        self.seen = {}

    async def generate(self, prompt_ids, *, sampling, request_id, **options):
        self.seen.setdefault(request_id, []).append(sampling.seed)
        return await super().generate(prompt_ids, sampling=sampling, request_id=request_id, **options)


@pytest.mark.parametrize("seed", [None, 7])
def test_each_turn_draws_with_its_own_seed(seed):
    engine = Seeds(CALL, CALL, ANSWER)
    for name in ("first", "again"):
        asyncio.run(rollout(engine, qwen_like_tokenizer(), [5], {"python": Echo()}, RolloutSettings(),
                            Sampling(temperature=1.0, seed=seed), name))
    assert engine.seen["first"] == engine.seen["again"] and len(set(engine.seen["first"])) == (3 if seed else 1)


def test_an_unopened_closing_tag_is_no_call():
    tool = Echo()
    assert go(Script("print(1)</python>", ANSWER), {"python": tool}).finish == "answer" and not tool.calls


def test_no_trajectory_waits_for_anothers_tool():
    async def both():
        slow, fast = Echo(seconds=0.4), Echo(seconds=0.0)
        started = time.monotonic()

        async def one(tool, name):
            await rollout(Script(CALL, ANSWER), qwen_like_tokenizer(), [1], {"python": tool}, RolloutSettings(), Sampling(), name)
            return time.monotonic() - started

        return await asyncio.gather(one(slow, "a"), one(fast, "b"))

    slow, fast = asyncio.run(both())
    assert slow >= 0.4 and fast < 0.2


ITEMS = [Item(str(number), f"what is {number}?", [str(number)]) for number in range(6)]


class ChatScript(Script):
    """The scripted engine with a tokenizer that renders chats."""


def job(**changes):
    return TraceJob(**({"task": "math", "system_prompt": "help", "settings": RolloutSettings(), "sampling": Sampling()} | changes))


@pytest.fixture
def tokenizer():
    tokenizer = qwen_like_tokenizer()
    tokenizer.chat_template = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
                               "<|im_start|>assistant\n")
    return tokenizer


def test_traces_resume_inside_a_benchmark(tmp_path, tokenizer, capsys):
    output = tmp_path / "gsm8k.jsonl"
    broken = Echo(fault=SearchUnavailable("gone"), faults=10**9)

    class HalfBroken(Echo):
        async def call(self, body):
            if len(self.calls) >= 3:
                return await broken.call(body)
            return await super().call(body)

    with pytest.raises(SearchUnavailable):
        asyncio.run(generate_traces(Script(CALL, ANSWER), tokenizer, {"python": HalfBroken()}, ITEMS, job(concurrency=1),
                                    output, work={"a": 1}))
    assert not output.exists()
    partial = (tmp_path / "gsm8k.jsonl.partial").read_text().splitlines()
    assert len(partial) == 1 + 3
    tool = Echo()
    asyncio.run(generate_traces(Script(CALL, ANSWER), tokenizer, {"python": tool}, ITEMS, job(), output, work={"a": 1}))
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(tool.calls) == 3 and [row["id"] for row in rows] == [item.id for item in ITEMS]
    assert rows[0]["answer"] == "1" and rows[0]["n_python"] == 1 and rows[0]["finish"] == "answer"
    assert "resuming: 3 of 6" in capsys.readouterr().err


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\r"])
def test_a_character_that_some_take_for_a_line_end_ends_no_record(tmp_path, mark):
    def writer():
        return ResumableWriter(tmp_path / "x.jsonl", work=1, key=("id",))

    first = writer()
    for number in range(3):
        first.add({"id": number, "text": f"one{mark}two"})
    assert writer().done == first.done


def test_no_two_items_samples_or_turns_draw_the_same_numbers(tmp_path, tokenizer):
    def seeds(seed):
        engine = Seeds(CALL, CALL, ANSWER)
        asyncio.run(generate_traces(engine, tokenizer, {"python": Echo()}, ITEMS, job(sampling=Sampling(1.0, seed=seed), samples=3),
                                    tmp_path / "x.jsonl", work={}))
        return engine.seen

    found = seeds(0)
    assert len({seed for turns in [*found.values(), *seeds(1).values()] for seed in turns}) == 2 * len(ITEMS) * 3 * 3
    assert found == seeds(0) and found["0-0"][0] == 602144  # in every process


def test_another_work_starts_afresh(tmp_path, tokenizer):
    output = tmp_path / "x.jsonl"
    (tmp_path / "x.jsonl.partial").write_text(json.dumps({"work": "other"}) + "\n" + '{"id": "0", "sample": 0}\n')
    tool = Echo()
    asyncio.run(generate_traces(Script(CALL, ANSWER), tokenizer, {"python": tool}, ITEMS, job(), output, work={"a": 2}))
    assert len(tool.calls) == 6 and (tmp_path / "x.jsonl.partial.stale").exists()


def test_what_a_tool_answers_from_is_part_of_the_work(tmp_path, monkeypatch):
    (tmp_path / "manifest.json").write_text("{}")
    for name in ("items", "cassette"):
        (tmp_path / name).write_text("1")
    given = SimpleNamespace(items=tmp_path / "items", index=tmp_path / "index", model=tmp_path, params={"task": "qa", "tools": {
        "routes": {}, "python": {}, "search": {}, "web_search": {"mode": "replay", "cassette": str(tmp_path / "cassette")}}})

    def changed(change, *route, mode="replay"):
        given.params["tools"]["routes"]["qa"], given.params["tools"]["web_search"]["mode"] = list(route), mode
        (tmp_path / "index").mkdir(exist_ok=True)
        (tmp_path / "index" / "manifest.json").write_text("{}")
        before = the_work(given, "help")
        change()
        return the_work(given, "help") != before

    def index():
        (tmp_path / "index" / "manifest.json").write_text('{"backend": "other"}')

    def cassette():
        (tmp_path / "cassette").write_text((tmp_path / "cassette").read_text() + "1")

    assert changed(index, "python", "search") and not changed(index, "python", "web_search")
    assert changed(cassette, "web_search") and not changed(cassette, "search")
    assert not changed(cassette, "web_search", mode="record")
    assert changed(lambda: monkeypatch.setattr("scripts.generate_traces.code_digest", lambda *_: "edited"), "python")


def test_a_passing_fault_is_retried_for_its_item_alone(tmp_path, tokenizer, monkeypatch):
    tool = Echo(fault=SearchUnavailable("busy"), faults=2)
    asyncio.run(generate_traces(Script(CALL, ANSWER), tokenizer, {"python": tool}, ITEMS[:1], job(), tmp_path / "x.jsonl",
                                work={}))
    assert len(tool.calls) == 3
