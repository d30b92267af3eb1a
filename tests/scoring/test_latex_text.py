r"""Text answers in LaTeX: what a reader sees is compared, in every QA metric; boxes with escaped braces."""

from __future__ import annotations

import pytest
from support.paths import ROOT

from tir.config.rl import RewardRule
from tir.rollout.protocol import Segment, extract_answer, format_fault, last_boxed, split_output
from tir.scoring.answers import qa
from tir.scoring.answers.latex_text import plain
from tir.scoring.reward import reward

METRICS = (qa.exact_match, qa.token_f1, qa.substring_accuracy, qa.character_f1)
SAME = [  # (prediction, what a reader sees)
    (r"\textsc{Paris}", "Paris"),
    (r"\texttt{Paris}", "Paris"),
    (r"\textsf{Paris}", "Paris"),
    (r"\textsl{Paris}", "Paris"),
    (r"\textup{Paris}", "Paris"),
    (r"\emph{Paris}", "Paris"),
    (r"\hbox{Paris}", "Paris"),
    (r"\mathsf{Paris}", "Paris"),
    (r"\operatorname{Paris}", "Paris"),
    (r"\underline{\textbf{Paris}}", "Paris"),
    (r"\textcolor{red}{Paris}", "Paris"),
    (r"{\bf Paris}", "Paris"),
    (r"\bfseries Paris", "Paris"),
    (r"\text{Jos\'{e}}", "José"),
    (r"Jos\'e", "José"),
    (r"Jos{\'e}", "José"),
    ("Jose\u0301", "José"),
    (r"\'{E}mile", "Émile"),
    (r"Na\"{\i}ve", "Naïve"),
    (r"Na\"ive", "Naïve"),
    (r"Fran\c{c}ois", "François"),
    (r"Fran\c cois", "François"),
    (r"Ku\v{s}ej", "Kušej"),
    (r"Erd\H{o}s", "Erdős"),
    (r"Pe\~na", "Peña"),
    (r"\r{A}ngstr\"om", "Ångström"),
    (r"Erdo\u{g}an", "Erdoğan"),
    (r"Wa\l\k{e}sa", "Wałęsa"),
    (r"\.Zubrowka", "Żubrowka"),
    (r"T\=oky\=o", "Tōkyō"),
    (r"Stra\ss e", "Straße"),
    (r"M\o{}ller", "Møller"),
    (r"\AA{}lborg", "Ålborg"),
    (r"C\ae sar", "Cæsar"),
    (r"AT\&T", "AT&T"),
    ("Paris\u200b", "Paris"),
    ("\ufeffParis", "Paris"),
    ("Pa\u00adris", "Paris"),
    ("\u200ePa\u200dris\u2060", "Paris"),
    (r"New\quad York", "New York"),
    (r"New\\York", "New York"),
    (r"New\;York", "New York"),
]


@pytest.mark.parametrize(("prediction", "gold"), SAME)
def test_an_answer_is_compared_as_a_reader_sees_it(prediction, gold):
    for metric in METRICS:
        assert metric(prediction, [gold]) == metric(gold, [prediction]) == 1, metric.__name__
        assert metric(prediction, ["Rome"]) == 0
    assert reward(_answered(prediction), [gold], "qa", RewardRule()).score == 1


@pytest.mark.parametrize("text", [r"\beta", r"\kappa", r"\cos x", r"\dot{x}", r"\vec{v}", r"\hat{x}", "~", "L'Arc"])
def test_mathematics_is_not_read_as_an_accent(text):
    assert plain(text).strip() == text.strip("~")


@pytest.mark.parametrize("invisible", ["\u200b", "\ufeff\u2060", r"\text{}", r"\ "])
def test_an_answer_without_a_visible_character_scores_0(invisible):
    assert all(metric(invisible, ["Paris"]) == 0 for metric in METRICS)


@pytest.mark.parametrize("metric", [qa.token_f1, qa.character_f1])
def test_both_f1_metrics_read_texts_of_articles_and_punctuation_alike(metric):
    assert metric("A", "A") == metric("+", "the") == 1 and metric("B", "A") == 0
    assert metric("A", "A", empty_matches=False) == 0


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{\left\{ 1 \right.}", r"\left\{ 1 \right."),
        (r"\boxed{\left. 1 \right\}}", r"\left. 1 \right\}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\frac{1}{2}\}}", r"\frac{1}{2}\}"),
        (r"\boxed{\begin{cases} x \\ {y} \end{cases}}", r"\begin{cases} x \\ {y} \end{cases}"),
        (r"\boxed{1} and \boxed{\lbrace 2}", r"\lbrace 2"),
        (r"\boxed{\left\{ \boxed{3} \right.}", "3"),
    ],
)
def test_escaped_braces_do_not_close_or_open_a_box(text, content):
    assert last_boxed(text) == content
    segments = _answered(None, text)
    assert extract_answer(segments) == content and format_fault(segments) is None
    assert reward(segments, content, "math", RewardRule()).score == 1


@pytest.mark.parametrize("text", [r"\boxed{1\}", r"\boxed{\{1, 2\}", r"\boxed\{1\}"])
def test_an_escaped_brace_is_no_end_of_a_box(text):
    assert last_boxed(text) is None
    assert reward(_answered(None, text), "1", "math", RewardRule()).score == -1


def test_no_other_module_lists_latex_text_commands():
    lists = {
        str(file.relative_to(ROOT)) for file in (ROOT / "tir").rglob("*.py") if "textrm" in file.read_text("utf-8")
    }
    assert lists <= {"tir/scoring/answers/latex_text.py", "tir/scoring/answers/math_text.py"}


def _answered(prediction: str | None, box: str | None = None) -> list[Segment]:
    return split_output(f"<think>t</think><answer>{box or f'{chr(92)}boxed{{{prediction}}}'}</answer>")
