r"""Verdicts on answers whose equality is known by construction, beside those of math-verify alone.

make bench-scoring            all pairs from the nine benchmark files; some minutes on two cores
make bench-scoring QUICK=1    a tenth of them

Each gold answer is rewritten in ways that keep its value (`1,234` for `1234`, `x = 5` for `5`, `\text{Paris}` for
`Paris`) and in ways that change it (`1235`, `-5`, another row's answer). Mathematics is compared by `math_equal`,
question answering by exact match, as the score records do. The times are of comparisons that need the worker process.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from support.shared_data import BENCHMARK_TASKS, SHARED

from bench.table import quantile
from tir.scoring.answers import qa
from tir.scoring.answers.math import math_equal
from tir.scoring.answers.verifier import Verifier

_INTEGER = re.compile(r"^-?\d+$")
_NO_SCALAR = re.compile(r"[=,;]|\\text|\\mbox|\\pm|matrix|circ|\\cup|\\in|\\\$|_|^[([\\{]+.*[)\]}]$|\\left")
_EQUAL_INTEGER: tuple[Callable[[int], str], ...] = (
    lambda n: f"{n:,}",
    lambda n: f"{n:,}".replace(",", "{,}"),
    lambda n: f"{n}.0",
    lambda n: f"x = {n}",
    lambda n: rf"\boxed{{{n}}}",
    lambda n: f"**{n}**",
    lambda n: f"${n}$.",
    lambda n: rf"\$ {n}",
    lambda n: rf"{n} \text{{ cm}}",
    lambda n: f"{n} dollars",
    lambda n: rf"\frac{{{2 * n}}}{{2}}",
    lambda n: f"{3 * n}/3",
    lambda n: f"{n - 7} + 7",
    lambda n: f"sqrt({n * n})" if n >= 0 else f"-sqrt({n * n})",
    lambda n: rf"{n / 1000!r} \times 10^3",
    lambda n: f"[{n}]",
    lambda n: rf"\mathbf{{{n}}}",
    lambda n: f"{n} apples",
)
_UNEQUAL_INTEGER: tuple[Callable[[int], str], ...] = (
    lambda n: str(n + 1),
    lambda n: str(n - 1),
    lambda n: str(10 * n or 10),
    lambda n: str(-n or 5),
    lambda n: f"{n}.5",
    lambda n: f"{n}!" if n > 2 else f"{n} + 1",
    lambda n: rf"\frac{{{n or 3}}}{{3}}",
    lambda n: f"{n + 1000:,}",
    lambda n: f"x = {n + 2}",
    lambda n: f"{n}, {n + 1}",
    lambda n: f"({n}, {n})",
    lambda n: f"{n} + x",
    lambda n: rf"{n} \text{{ million}}" if n else "3",
    lambda n: f"sqrt({abs(n) + 2})" if n not in (-1, 2) else "9",
    lambda n: f"{n}.000001",
    lambda n: f"{n} or {n + 3}",
    lambda n: f"x > {n}",
    lambda n: f"{n}_7",
    lambda n: rf"{n}i" if n else "i",
)
_EQUAL_SCALAR = (
    r"({0})",
    r"0 + ({0})",
    r"1 \cdot ({0})",
    r"\frac{{3({0})}}{{3}}",
    r"x = {0}",
    r"\boxed{{{0}}}",
    r"$ {0} $",
    r"\left( {0} \right)",
    r"**{0}**",
    r"{0}.",
    r"({0}) - 5 + 5",
    r"\displaystyle {0}",
)
_UNEQUAL_SCALAR = (
    r"({0}) + 1",
    r"2({0})",
    r"-({0})",
    r"({0}) + \frac{{1}}{{10^{{12}}}}",
    r"({0})(1 + 10^{{-9}})",
    r"\frac{{{0}}}{{7}}",
    r"x = ({0}) - 3",
    r"{0}, 0",
    r"({0}) + y",
    r"({0})i",
)
_EQUAL_OTHER = (r"\boxed{{{0}}}", r"$ {0} $", r"**{0}**", r"{0}.", r" {0} ")
_EQUAL_TEXT = (
    r"\text{{{0}}}",
    r"\textbf{{{0}}}",
    r"\boxed{{\text{{{0}}}}}",
    "The {0}",
    "{0}.",
    "\u200b{0}",
    r"\textsc{{{0}}}",
    "**{0}**",
    '"{0}"',
)


@dataclass(frozen=True)
class Pair:
    """A prediction, a gold answer, whether they are equal by construction, and the task."""

    prediction: str
    gold: str
    equal: bool
    task: str


def pairs(share: float = 1.0, variants: int = 2) -> Iterator[Pair]:
    """Labelled pairs from the nine benchmark files: per gold answer `variants` equal and as many unequal ones."""
    draw = random.Random(0)
    for name, task in BENCHMARK_TASKS.items():
        golds = _golds(SHARED / "benchmarks" / f"{name}.jsonl", name)
        for gold in draw.sample(golds, max(2, int(share * len(golds)))):
            equal, unequal = (_math if task == "math" else _text)(gold, golds, draw)
            # The few golds that are no integers carry most kinds: all their variants are used.
            count = variants if _INTEGER.match(gold) or task != "math" else 99
            for texts, label in ((equal, True), (unequal, False)):
                for text in draw.sample(texts, min(count, len(texts))):
                    yield Pair(text, gold, label, "math" if task == "math" else "qa")


def confusion(verdicts: list[tuple[Pair, bool]]) -> Counter:
    """Numbers of (equal by construction, found equal)."""
    return Counter((pair.equal, found) for pair, found in verdicts)


def ours(pair: Pair, verifier: Verifier) -> bool:
    """The verdict of this project."""
    if pair.task == "math":
        return math_equal(pair.prediction, pair.gold, verifier)
    answer = re.sub(r"^\\boxed\{(.*)\}$", r"\1", pair.prediction)  # the rollout takes the answer out of its box
    return qa.exact_match(answer, pair.gold) == 1


def math_verify_alone(pair: Pair) -> bool:
    """The verdict of math-verify with its defaults."""
    from math_verify import parse, verify

    gold, prediction = (
        text if "$" in text or "boxed" in text else f"${text}$" for text in (pair.gold, pair.prediction)
    )
    return bool(verify(parse(gold), parse(prediction)))


def _golds(file: Path, name: str) -> list[str]:
    rows = [json.loads(line)["answer"] for line in file.read_text(encoding="utf-8").splitlines()]
    if name == "gsm8k":
        return [row.split("#### ")[1].replace(",", "") for row in rows]
    return [str(row[0] if isinstance(row, list) else row) for row in rows]


def _math(gold: str, golds: list[str], draw: random.Random) -> tuple[list[str], list[str]]:
    if _INTEGER.match(gold):
        number = int(gold)
        return [each(number) for each in _EQUAL_INTEGER], [each(number) for each in _UNEQUAL_INTEGER]
    if not _NO_SCALAR.search(gold):
        texts = [each.format(gold) for each in _EQUAL_SCALAR]
        return texts + _respelled(gold), [each.format(gold) for each in _UNEQUAL_SCALAR]
    bracketed = re.fullmatch(r"(?:\\left)?\s*([(\[])(.*),(.*?)(?:\\right)?\s*([)\]])", gold)
    equal = [each.format(gold) for each in _EQUAL_OTHER] + _respelled(gold)
    unequal = [
        other for other in draw.sample(golds, 12) if _digits(other) != _digits(gold) and _kind(other) != _kind(gold)
    ]
    if bracketed and "cup" not in gold:
        opening, first, second, closing = bracketed.groups()
        unequal += [f"{opening}{second},{first}{closing}", f"{opening}{first},{second} + 1{closing}"]
        unequal += [f"{'[' if opening == '(' else '('}{first},{second}{closing}", f"{opening}{first}{closing}"]
    return equal, unequal[:8]


def _respelled(gold: str) -> list[str]:
    """The gold answer with other commands for the same."""
    texts = [gold.replace(r"\frac", r"\dfrac"), gold.replace(r"\dfrac", r"\frac"), gold.replace(" ", "")]
    texts.append(re.sub(r"(?<!\\left)\(", r"\\left(", re.sub(r"(?<!\\right)\)", r"\\right)", gold)))
    texts.append(re.sub(r"\\sqrt(\d)(?!\d)", r"\\sqrt{\1}", gold))
    texts.append(re.sub(r"\\sqrt\{(\d)\}", r"\\sqrt\1", gold))
    texts.append(re.sub(r"\\frac\{(\d)\}\{(\d)\}", r"\\frac\1\2", gold))
    texts.append(re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"(\1/\2)", gold) if not re.search(r"\d *\\frac", gold) else gold)
    texts.append(gold.replace(r"\pi", "π").replace(r"\infty", "∞").replace("^\\circ", "°").replace(r"\cup", "∪"))
    return [text for text in texts if text != gold]


def _text(gold: str, golds: list[str], draw: random.Random) -> tuple[list[str], list[str]]:
    escaped = re.sub(r"([&%$#_])", r"\\\1", gold)
    equal = [each.format(escaped if "text" in each else gold) for each in _EQUAL_TEXT]
    others = [other for other in draw.sample(golds, 8) if qa.normalize(other) != qa.normalize(gold)]
    words = gold.split()
    unequal = [rf"\text{{{other}}}" for other in others[:4]] + [f"{gold} junior", f"not {gold}"]
    if len(words) > 1 and qa.normalize(" ".join(words[1:])) != qa.normalize(gold):
        unequal.append(" ".join(words[1:]))
    return equal, unequal


def _digits(text: str) -> list[str]:
    return re.findall(r"\d+|[A-Za-z]{3,}", re.sub(r"\\[a-z]+", " ", text))  # 30 and 30^\circ have the same


def _kind(text: str) -> str:
    return "integer" if _INTEGER.match(text) else re.sub(r"[\d\s]+", "", text)[:12]


class _Timed(Verifier):
    """A verifier that measures each comparison: wall time and the worker's time on a CPU, in seconds."""

    def __init__(self):
        super().__init__()
        self.wall, self.busy = [], []

    def _decide(self, prediction: str, gold: str) -> bool:
        self.self_test()
        process = self._idle.queue[-1].process
        before, started = _on_cpu(process.pid), time.perf_counter()
        verdict = super()._decide(prediction, gold)
        self.wall.append(time.perf_counter() - started)
        if process.poll() is None:
            self.busy.append(_on_cpu(process.pid) - before)
        return verdict


def _on_cpu(process: int) -> float:
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9


def _report(name: str, verdicts: list[tuple[Pair, bool]]) -> None:
    counts = confusion(verdicts)
    equal, unequal = (sum(counts[label, found] for found in (True, False)) for label in (True, False))
    print(
        f"{name:<22} {counts[True, True]:>9} {counts[True, False]:>11} {counts[False, True]:>11} "
        f"{counts[False, False]:>11} {100 * counts[True, False] / equal:>8.2f} % "
        f"{100 * counts[False, True] / unequal:>8.2f} %",
        flush=True,
    )


def _times(label: str, times: list[float]) -> None:
    times = sorted(times)
    middle, slow = (1000 * quantile(times, share) for share in (0.5, 0.99))
    print(f"{label}: median {middle:.1f} ms, p99 {slow:.1f} ms, {len(times)} comparisons", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the pairs")
    parser.add_argument("--show", type=int, default=20, help="number of wrong verdicts to print")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    labelled = list(pairs(0.1 if options.quick else 1.0))
    verifier = _Timed()
    mine = [(pair, ours(pair, verifier)) for pair in labelled]
    counts = Counter(pair.equal for pair in labelled)
    print(f"{counts[True]} equal and {counts[False]} unequal pairs from {len(BENCHMARK_TASKS)} benchmarks")
    print(f"{'':<22} {'equal':>9} {'called':>11} {'unequal':>11} {'':>11} {'false':>10} {'false':>10}")
    print(f"{'':<22} {'':>9} {'unequal':>11} {'called equal':>11} {'unequal':>10} {'negatives':>10} {'positives':>10}")
    _report("this project", mine)
    _report("  mathematics", [each for each in mine if each[0].task == "math"])
    _report("  question answering", [each for each in mine if each[0].task == "qa"])
    _times("wall time", verifier.wall)
    _times("the worker's time on a CPU", verifier.busy)
    theirs, started = [], []
    for pair in labelled:
        begin = time.process_time()
        theirs.append((pair, math_verify_alone(pair)))
        started.append(time.process_time() - begin)
    _report("math-verify alone", theirs)
    _report("  mathematics", [each for each in theirs if each[0].task == "math"])
    _times("time on a CPU", started)
    wrong = [(pair, found) for pair, found in mine if pair.equal != found]
    for pair, found in wrong[: options.show]:
        print(f"wrong: {pair.prediction!r} against {pair.gold!r} is called {'equal' if found else 'unequal'}")


if __name__ == "__main__":
    main()
