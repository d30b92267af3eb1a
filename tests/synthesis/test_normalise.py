"""Step 2 on small hand-written samples: each rule removes what it should, and counts it."""

import pytest
from support.samples import ADD, FIVE, RESULT, record, sample

from tir.config.synthesis import Normalisation
from tir.rollout.protocol import Segment, format_fault, split_output
from tir.synthesis.near import NearDuplicates
from tir.synthesis.normalise import QUESTION_RULES, TRAJECTORY_RULES, normalise
from tir.synthesis.repair import repaired


def rules(**changes):
    return Normalisation(**changes)


def outcome(*samples, **changes):
    """The rules that remove trajectories of one question, with their counts, and the kept ones."""
    rows, report = normalise([record("0", "What is 2 plus 3?", *samples)], {}, rules(**changes))
    counts = {name: number for name, number in report["trajectories"].items() if number and name != "sampled"}
    assert report["trajectories"]["sampled"] == len(samples) == sum(counts.values())
    return counts, rows[0]["trajectories"]


def test_a_good_trajectory_stays_as_it_is():
    counts, kept = outcome(sample("tools", 0, ADD, RESULT, FIVE))
    assert counts == {"kept": 1}
    assert kept == [{"kind": "tools", "number": 0, "calls": 1, "output": ADD + RESULT + FIVE}]


@pytest.mark.parametrize(
    ("rule", "given"),
    [
        ("unfinished", sample("tools", 0, ADD, RESULT, FIVE, finish="length")),
        ("wrong answer", sample("tools", 0, ADD, RESULT, FIVE, answer="6")),
        ("wrong answer", sample("tools", 0, ADD, RESULT, FIVE, answer=None)),
        ("call where none is allowed", sample("direct", 0, ADD, "", emitted=1, executed=0)),
        ("no call where one is allowed", sample("tools", 0, FIVE)),
        ("too many calls", sample("tools", 0, *[ADD, RESULT] * 6, FIVE)),
        ("call that did not run", sample("tools", 0, ADD, RESULT, ADD.replace("2", "1"), RESULT, FIVE, executed=1)),
        ("repeated call", sample("hint", 0, ADD, RESULT, ADD, RESULT, FIVE)),
        ("format", sample("tools", 0, ADD, RESULT, "five it is")),
        ("format", sample("tools", 0, ADD, "<result>\n</result> 5\n</result>", FIVE)),
    ],
)
def test_each_rule_removes_a_trajectory(rule, given):
    assert rule in TRAJECTORY_RULES and outcome(given) == ({rule: 1}, [])


def test_the_limits_are_configuration():
    calls = [ADD, RESULT, ADD.replace("2+3", "3+2"), RESULT, FIVE]
    assert outcome(sample("tools", 0, *calls))[0] == {"kept": 1}
    assert outcome(sample("tools", 0, *calls), max_calls=1)[0] == {"too many calls": 1}
    again = sample("tools", 0, ADD, RESULT, ADD, RESULT, FIVE)
    assert outcome(again, max_identical_calls=2)[0] == {"kept": 1}


def test_the_same_text_twice_counts_once():
    counts, kept = outcome(sample("tools", 0, ADD, RESULT, FIVE), sample("hint", 0, ADD, RESULT, FIVE))
    assert counts == {"kept": 1, "same text": 1} and len(kept) == 1


def test_the_comparison_counts_samples_before_the_rules_for_trajectories():
    given = record(
        "0",
        "What is 2 plus 3?",
        sample("direct", 0, FIVE),
        sample("direct", 1, ADD, "", emitted=1, executed=0),
        sample("direct", 2, FIVE, answer="4"),
        sample("tools", 0, ADD, RESULT, ADD, RESULT, FIVE),
        sample("tools", 1, ADD, RESULT, FIVE, answer="6"),
        sample("hint", 0, ADD, RESULT, FIVE),
    )
    (row,), _ = normalise([given], {}, rules())
    assert row["direct"] == {"samples": 3, "right": 1} and row["tools"] == {"samples": 2, "right": 1}
    assert [(each["kind"], each["number"]) for each in row["trajectories"]] == [("direct", 0), ("hint", 0)]


def test_qa_answers_are_right_from_a_token_f1_on():
    given = record(
        "0",
        "Who?",
        sample("tools", 0, "<think>a</think><search>b</search>", RESULT, FIVE, answer="Ada King Lovelace"),
        task="qa",
        gold=["Ada Lovelace", "x"],
    )
    assert normalise([given], {}, rules())[0][0]["tools"]["right"] == 1  # F1 = 0.8
    assert normalise([given], {}, rules(qa_f1=0.9))[0][0]["tools"]["right"] == 0


def test_each_rule_removes_a_question_and_counts_it():
    long = "In which year was the old stone bridge over the river near the town of Aldery first opened to traffic"
    given = [
        record("0", "Lost?", lost="refused"),
        record("1", "What is  2 PLUS 3"),
        record("2", f"{long}, by whom?"),
        record("3", "New question one?"),
        record("4", "new question ONE"),
        record("5", "The first long question about how the large tower of the small town came to be built, and when?"),
        record("6", "The first long question about how the large tower of the small town came to be built, and why?"),
        record("7", f"{long.replace('old', 'new')} 7 times?"),
    ]
    known = {"gsm8k": ["What is 2 plus 3?", "Other?"], "rl_validation": [f"{long}?"]}
    rows, report = normalise(given, known, rules())
    assert [row["id"] for row in rows] == ["3", "5", "7"]
    counts = dict.fromkeys(QUESTION_RULES, 1)
    assert report["questions"] == {"given": 8, **counts, "lost: refused": 1, "kept": 3}
    assert report["found_in"] == {"gsm8k": 1, "rl_validation": 1}
    exact = normalise(given, known, rules(near_duplicates=None))[1]["questions"]
    assert exact["near duplicate"] == exact["nearly in one"] == 0 and exact["kept"] == 5
    assert normalise(given, known, rules(decontaminate=False))[1]["questions"][QUESTION_RULES[0]] == 0


def test_near_duplicates_have_the_same_numbers():
    near = NearDuplicates(0.7)
    text = "A farmer sells 12 eggs every morning at the market of the town and keeps the rest of them for the family"
    near.add(text, "first")
    assert near.like(f"{text} of his") == "first" and near.like(text) == "first"
    assert near.like(text.replace("12", "13")) is None and near.like("Something else entirely with 12 words") is None


def test_the_hash_functions_find_every_pair_above_the_threshold():
    """Against the exact comparison of all pairs, on word sequences with known overlaps."""
    import random

    draw = random.Random(0)
    words = [f"w{letter}{other}" for letter in "abcdefghij" for other in "abcdefghij"]
    base = [" ".join(draw.choices(words, k=30)) for _ in range(40)]
    changed = []
    for text in base:
        parts = text.split()
        for position in draw.sample(range(30), draw.choice([1, 2, 6])):
            parts[position] = "other"
        changed.append(" ".join(parts))

    def sequences(text):
        parts = text.split()
        return {tuple(parts[start : start + 3]) for start in range(len(parts) - 2)}

    near = NearDuplicates(0.6)
    for number, text in enumerate(base):
        near.add(text, str(number))
    for text in changed:
        alike = [
            str(number)
            for number, other in enumerate(base)
            if len(sequences(text) & sequences(other)) >= 0.6 * len(sequences(text) | sequences(other))
        ]
        assert near.like(text) == (alike[0] if alike else None)
    assert 10 < sum(near.like(text) is not None for text in changed) < 40


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # Text after the answer, a missing box, a missing answer block, unclosed and missing thoughts.
        ([ADD, RESULT, FIVE + "\nDone!"], ADD + RESULT + FIVE),
        ([ADD, RESULT, "<answer>5</answer>"], ADD + RESULT + r"<answer>\[ \boxed{5} \]</answer>"),
        ([ADD, RESULT, r"<answer>\boxed{5}"], ADD + RESULT + r"<answer>\boxed{5}</answer>"),
        ([r"<think>a</think>It is \boxed{5}."], r"<think>a</think><answer>It is \boxed{5}.</answer>"),
        ([r"<think>a<answer>\boxed{5}</answer>"], r"<think>a</think><answer>\boxed{5}</answer>"),
        (["<think>a<python>1</python>", RESULT, FIVE], "<think>a</think><python>1</python>" + RESULT + FIVE),
        (["a</think>" + FIVE], "a" + FIVE),
        ([r"Two and three.<answer>\boxed{5}</answer>"], r"<think>Two and three.</think><answer>\boxed{5}</answer>"),
    ],
)
def test_the_format_is_repaired(given, expected):
    segments = [Segment("tool" if text.startswith("<result>") else "model", text) for text in given]
    kept = repaired(segments)
    assert "".join(segment.text for segment in kept) == expected and format_fault(kept) is None
    assert repaired(kept) == kept and repaired(split_output(expected)) is not None


@pytest.mark.parametrize(
    "texts",
    [
        ["<think>a</think>"],
        [r"<answer>\boxed{5}</answer>"],
        [ADD],
        ["<think>a</think><python>1</python><result>2</result>" + FIVE],
    ],
)
def test_what_cannot_be_repaired_is_none(texts):
    assert repaired([Segment("model", text) for text in texts]) is None
