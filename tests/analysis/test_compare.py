"""The comparison of two models: counts, test, changed items, and the page in a real browser with hostile text."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom
from support import made_up
from support.chromium import PROGRAM, Browser
from support.paths import ROOT

from tir.analysis.compare import page as pages
from tir.analysis.compare.changes import changed, counts, model_parts, pair_label, paired_models
from tir.analysis.tables.inputs import Inputs
from tir.common.errors import DataError

NAMES = ["gsm8k", "hotpotqa"]
BENCHMARKS = [each for each in made_up.BENCHMARKS if each["name"] in NAMES]
HOSTILE = (
    "<script>document.title = 'broken'</script><img src=x onerror=\"document.title = 'broken'\">"
    "</pre></script><!-- \u202eltr\u2066 \u200b\x00\x1b[31m\x07 שלום مرحبا \ud800 \u2028 `${1}` &lt;b&gt;"
)


def trace(item, text, *results, answer="1"):
    """A trajectory whose model writes `text`; `results` follow its calls, in `[result, more text]` pairs."""
    segments = [{"by": "model", "text": text}]
    for result, more in results:
        segments += [{"by": "tool", "text": f"<result>\n{result}\n</result>"}, {"by": "model", "text": more}]
    return {
        "id": item,
        "sample": 0,
        "task": "math",
        "question": f"question {item}",
        "gold": ["1"],
        "segments": segments,
        "answer": answer,
        "n_python": len(results),
        "n_search": 0,
        "first_tool_offset": -1,
        "finish": "answer",
        "usage": {"response_tokens": 10},
        "timings": {},
    }


def score(item, right):
    return {"id": item, "sample": 0, "em": float(right), "f1": float(right), "correct": right, "decided_by": "rules"}


CALL = "<think>t</think><python>1/0</python>"
ANSWER = "<answer>\\boxed{1}</answer>"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two models on two benchmarks: in gsm8k items 0 to 9 change, one in two for the better; in hotpotqa item x/y."""
    root = tmp_path_factory.mktemp("records")
    for number, model in enumerate(("sft", "aspo-step30-seed1")):
        right = [item % 2 == number if item < 10 else item % 3 == 0 for item in range(30)]
        rows = [trace(str(item), f"<think>t</think>{ANSWER}") for item in range(30)]
        if number:
            rows[3] = trace("3", CALL, ("ZeroDivisionError: division by zero", f"<think>u</think>{ANSWER}"))
        rows[5] = trace("5", f"{HOSTILE}<think>{HOSTILE}</think>" + CALL, (HOSTILE, HOSTILE), answer=HOSTILE)
        rows[5]["question"], rows[5]["gold"] = HOSTILE, [HOSTILE, "2"]
        write(root / "traces" / model / "gsm8k.jsonl", rows)
        write(root / "scores" / model / "gsm8k.jsonl", [score(str(item), each) for item, each in enumerate(right)])
        write(root / "traces" / model / "hotpotqa.jsonl", [trace("x/y <&> #", ANSWER), trace("z", ANSWER)])
        scores = [score("x/y <&> #", bool(number)), score("z", True)]
        write(root / "scores" / model / "hotpotqa.jsonl", scores)
    return root


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def inputs_of(root):
    return Inputs(scores=[root / "scores"], traces=[root / "traces"])


def params(a="sft", b="aspo-step30-seed1", benchmarks=BENCHMARKS):
    return {"names": [a, b], "models": [[a], [b]], "benchmarks": benchmarks}


# --- numbers


def test_the_two_by_two_counts_every_trajectory_and_its_test_is_between_mcnemars_two(root):
    found = {each.benchmark: each for each in counts(inputs_of(root), [("sft", "aspo-step30-seed1")], NAMES)}
    each = found["gsm8k"]
    assert (each.both, each.only_a, each.only_b, each.neither) == (6, 5, 5, 14) and each.difference == 0
    assert each.p == pytest.approx(1) and each.lo == pytest.approx(-each.hi)
    assert (found["hotpotqa"].both, found["hotpotqa"].only_b, found["hotpotqa"].difference) == (1, 1, 0.5)
    assert found["hotpotqa"].lo >= -1 and found["hotpotqa"].hi <= 1


@pytest.mark.parametrize("lost, gained", [(3, 12), (0, 8), (10, 20)])
def test_the_p_value_lies_between_the_exact_test_and_its_mid_p(tmp_path, lost, gained):
    outcomes = [(True, False)] * lost + [(False, True)] * gained + [(True, True)] * 40
    for number, model in enumerate("ab"):
        rows = [score(str(item), each[number]) for item, each in enumerate(outcomes)]
        write(tmp_path / "scores" / model / "gsm8k.jsonl", rows)
    (found,) = counts(inputs_of(tmp_path), [("a", "b")], ["gsm8k"])
    n, few = lost + gained, min(lost, gained)
    exact = min(1.0, 2 * binom.cdf(few, n, 0.5))
    assert exact - binom.pmf(few, n, 0.5) - 0.005 <= found.p <= exact + 0.005
    assert found.difference == pytest.approx((gained - lost) / len(outcomes)) and found.p_holm == found.p


def test_arms_are_compared_seed_by_seed_and_a_model_with_each_seed(tmp_path):
    made_up.write_scores(tmp_path, [f"{arm}-step30-seed{seed}" for arm in ("grpo", "aspo") for seed in (1, 2, 3)])
    made_up.write_scores(tmp_path, ["sft"], seed=1)
    grpo, aspo = ([f"{arm}-step30-seed{seed}" for seed in (1, 2, 3)] for arm in ("grpo", "aspo"))
    pairs = paired_models(grpo, aspo)
    assert pairs == list(zip(grpo, aspo)) and [pair_label(pair) for pair in pairs] == ["seed 1", "seed 2", "seed 3"]
    assert paired_models(["sft"], aspo) == [("sft", model) for model in aspo] and not pair_label(("sft", "published"))
    found = counts(inputs_of(tmp_path), pairs, ["gsm8k"])[0]
    lists = [[json.loads(line)["correct"] for line in open(tmp_path / f"scores/{model}/gsm8k.jsonl")] for model in aspo]
    assert found.both + found.only_b == np.sum(lists)
    assert found.both + found.only_a + found.only_b + found.neither == 90


def test_models_with_other_items_are_not_compared(root, tmp_path):
    for model, items in (("a", 3), ("b", 4)):
        write(tmp_path / "scores" / model / "gsm8k.jsonl", [score(str(item), True) for item in range(items)])
    with pytest.raises(DataError, match="answered different items"):
        counts(inputs_of(tmp_path), [("a", "b")], ["gsm8k"])


def test_changed_items_are_those_of_different_verdicts(root):
    found = list(changed(inputs_of(root), [("sft", "aspo-step30-seed1")], "gsm8k"))
    assert [each["item"] for each in found] == [str(item) for item in range(10)]
    assert [each["right"] for each in found] == [0, 1] * 5
    third = found[3]["sides"][1]
    assert third["errors"] == 1 and third["bigrams"] == ["python→think", "think→answer", "think→python"]
    assert ["error", "ZeroDivisionError: division by zero"] in third["parts"]


@pytest.mark.parametrize("text, parts", [
    ("<think>a</think> <python>b</python>", [["think", "a"], ["python", "b"]]),
    ("x<think>a<search>b", [["text", "x"], ["think, not closed", "a"], ["search, not closed", "b"]]),
    ("a</think>b<answer></answer>", [["text", "a</think>b"]]),
    ("<think>a</python>b</think>", [["think", "a</python>b"]]),
    ("<result>no</result>", [["text", "<result>no</result>"]]),
])  # fmt: skip
def test_a_models_text_is_divided_into_its_actions(text, parts):
    assert list(model_parts(text)) == parts


def test_an_item_that_changed_and_has_no_trajectory_is_an_error(root, tmp_path):
    """Otherwise the page would leave it out, or not be made, without a reason."""
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    for model in ("sft", "aspo-step30-seed1"):
        path = tmp_path / f"traces/{model}/gsm8k.jsonl"
        whole = path.read_text()
        path.write_text("".join(whole.splitlines(keepends=True)[1:]))
        with pytest.raises(DataError, match=f"{model} on gsm8k: no trajectory of an item that changed.* item 0"):
            list(changed(inputs_of(tmp_path), [("sft", "aspo-step30-seed1")], "gsm8k"))
        path.write_text(whole)


# --- the page


def test_the_page_is_below_five_megabytes_for_eight_benchmarks_of_500_items(big_comparison):
    """With trajectories of 3,000 tokens, of which a third changes its verdict."""
    html = pages.page(inputs_of(big_comparison), params("a", "b", made_up.BENCHMARKS))
    assert len(html.encode()) < 5_000_000 and html.count('id="chunk-') > 20
    assert "To keep this page small, long texts are shortened in their middle: tool results to" in html


@pytest.fixture(scope="module")
def big_comparison(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("big"), np.random.default_rng(0)
    words = np.array(["".join(rng.choice(list("etaoinshrdlu"), rng.integers(2, 10))) for _ in range(5000)])
    book = words[np.minimum(rng.zipf(1.3, 500_000), 5000) - 1]

    def text(number):
        start = rng.integers(len(book) - number)
        return " ".join(book[start : start + number])

    for model in "ab":
        for benchmark in made_up.BENCHMARKS:
            rows = [
                trace(str(item), f"<think>{text(150)}</think><search>{text(8)}</search>", (text(700), text(150)))
                for item in range(500)
            ]
            write(root / "traces" / model / f"{benchmark['name']}.jsonl", rows)
            right = rng.random(500) < 0.25
            rows = [score(str(item), bool(each)) for item, each in enumerate(right)]
            write(root / "scores" / model / f"{benchmark['name']}.jsonl", rows)
    return root


def test_nothing_is_shortened_that_fits(root):
    assert "shortened" not in pages.page(inputs_of(root), params())


def test_the_page_says_what_its_numbers_rest_on(root):
    html = pages.page(inputs_of(root), params(), "generated world, 0.8M parameters")
    assert "generated world, 0.8M parameters" in html and "there is no p-value" in html
    assert '<tr><th scope="row">GSM8K</th><td>6</td><td>5</td><td>5</td><td>14</td><td>0.0</td>' in html
    assert "</td><td></td><td></td></tr>" in html
    assert "those of a paired test" in pages.page(inputs_of(root), params("sft", "sft"))


def test_the_script_of_the_page_is_short():
    assert len((ROOT / "tir/analysis/compare/page.js").read_text().splitlines()) < 300


@pytest.fixture(scope="module")
def browser():
    if not PROGRAM.exists():
        pytest.skip(f"no {PROGRAM}: apt-get install chromium")
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def file(root, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "sft_vs_aspo.html"
    path.write_text(pages.page(inputs_of(root), params()))
    return path


@pytest.fixture
def opened(browser, file):
    browser.open(file)
    return browser


def choose(browser, name, value):
    browser.run(
        f"(() => {{ const each = document.getElementById('{name}'); each.value = '{value}';"
        "each.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )
    return browser.run("[...document.querySelectorAll('#list a')].map((link) => link.firstChild.textContent)")


def shown(browser):
    return browser.run("document.querySelector('#item h3')?.textContent")


def test_filters_leave_the_items_that_match_all_of_them(opened):
    every = [f"GSM8K {item}, seed 1" for item in range(10)] + ["HotpotQA x/y <&> #, seed 1"]
    assert choose(opened, "benchmark", "") == every
    assert choose(opened, "benchmark", "1") == every[10:]
    assert choose(opened, "benchmark", "0") == every[:10]
    assert choose(opened, "right", "1") == every[1:10:2]
    assert choose(opened, "error", "1") == ["GSM8K 3, seed 1"]
    assert choose(opened, "error", "none") == [each for each in every[1:10:2] if "3," not in each]
    choose(opened, "error", "")
    bigram = opened.run("[...document.querySelectorAll('#bigram option')].map((each) => each.textContent)")
    number = bigram.index("python→think") - 1
    assert choose(opened, "bigram", number) == ["GSM8K 3, seed 1"]
    assert opened.run("document.getElementById('count').textContent") == "1 of 11"
    assert choose(opened, "right", "0") == []


def test_an_address_with_an_item_shows_it(browser, file):
    browser.open(file, "#gsm8k/3/0/sft%2Caspo-step30-seed1")
    browser.wait("document.querySelector('.sides')")
    assert shown(browser) == "GSM8K 3, seed 1"
    kinds = "[...document.querySelectorAll('.sides > section:nth-child(2) h4')].map((each) => each.textContent)"
    assert browser.run(kinds) == ["think", "python", "result: error", "think", "answer"]
    assert browser.run("document.querySelector('[aria-current]').firstChild.textContent") == "GSM8K 3, seed 1"
    last = browser.run("[...document.querySelectorAll('#list a')].at(-1).getAttribute('href')")
    browser.open(file, last)
    browser.wait("document.querySelector('.sides')")
    assert shown(browser) == "HotpotQA x/y <&> #, seed 1"
    browser.open(file, "#gsm8k/99/0/none")
    browser.wait("document.querySelector('#item p')")
    assert browser.run("document.getElementById('item').textContent") == "This page has no such item."


def test_keys_walk_through_the_filtered_list(opened):
    choose(opened, "right", "1")
    for key, item in (("j", 1), ("j", 3), ("j", 5), ("k", 3)):
        opened.press(key)
        opened.wait(f"document.querySelector('#item h3')?.textContent === 'GSM8K {item}, seed 1'")
    assert opened.run("document.activeElement.id") == "item"
    opened.press("f")
    assert opened.run("document.activeElement.id") == "benchmark"
    opened.press("j")  # in a filter, a letter belongs to the filter
    assert shown(opened) == "GSM8K 3, seed 1"


def test_hostile_text_is_shown_as_text(browser, file):
    browser.open(file, "#gsm8k/5/0/sft%2Caspo-step30-seed1")
    browser.wait("document.querySelector('.sides')")
    title = browser.run("document.title")
    assert title == "sft against aspo-step30-seed1"
    assert browser.run("document.querySelectorAll('#item script, #item img, #item b').length") == 0
    texts = browser.run("[...document.querySelectorAll('#item pre, #item bdi')].map((each) => each.textContent)")
    hostile = [text for text in texts if "<script>document.title" in text]
    assert len(hostile) >= 2 + 2 * 5
    for text in hostile:
        assert "[U+202E]ltr[U+2066] [U+200B]␀␛[31m␇ שלום مرحبا" in text and "&lt;b&gt;" in text
        assert not re.search("[\x00\x1b\x07\u202e\u2066\u200b]", text)
    assert browser.faults == []


def test_the_page_asks_no_network_and_its_policy_refuses_other_scripts(opened, file):
    opened.press("j")
    opened.wait("document.querySelector('.sides')")
    assert opened.requests == [Path(file).as_uri()] and opened.faults == []
    made = "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.bad = 1'}))"
    opened.run(made)
    opened.run("fetch('http://127.0.0.1:9/').catch(() => 0)")
    assert opened.run("window.bad") is None
    assert any("Content Security Policy" in each for each in opened.faults)


def test_the_page_has_names_for_a_screen_reader(opened):
    opened.press("j")
    opened.wait("document.querySelector('.sides')")
    unnamed = "[...document.querySelectorAll('select')].filter((each) => !each.labels.length).length"
    assert opened.run(unnamed) == 0
    assert opened.run("document.documentElement.lang") == "en"
    assert opened.run("document.querySelectorAll('th:not([scope])').length") == 0
    labels = opened.run("[...document.querySelectorAll('.sides > section')].map((each) => each.ariaLabel)")
    assert labels == ["sft, right", "aspo-step30-seed1, wrong"]
    assert opened.run("document.getElementById('count').getAttribute('role')") == "status"


@pytest.mark.parametrize("width", [1280, 360])
def test_the_page_is_never_wider_than_the_window(opened, width):
    opened.resize(width, 800)
    opened.run("location.hash = '#gsm8k/5/0/sft%2Caspo-step30-seed1'")
    opened.wait("document.querySelector('.sides')")
    assert opened.run("document.documentElement.scrollWidth") <= width
    opened.resize(1280, 900)
