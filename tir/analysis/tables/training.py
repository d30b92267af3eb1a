"""Tables about training: the module inventory (7), resources (8), and the outcomes of SFT runs (9, 10, 13)."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tir.analysis.numbers import fixed
from tir.analysis.tables.inputs import Inputs
from tir.analysis.tables.layout import Table
from tir.common.errors import DataError


def module_inventory(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """Table 7: a package's modules with lines, public symbols and role; input `data`: the package's directory."""
    if not inputs.data:
        raise DataError(
            "no package given", where=f"{name}: data", why="the table lists its modules", remedy="pass --data aspo"
        )
    files = [
        file
        for package in inputs.data
        for file in sorted(package.glob("*.py"), key=lambda file: (file.stem == "__init__", file.stem))
    ]
    if not files:
        raise DataError("package has no modules", where=str(inputs.data[0]), why="the directory holds no .py file")
    rows = [[f"{file.parent.name}/{file.name}", *describe_module(file)] for file in files]
    return {"": Table("Modules of the package", ["module", "lines", "public_symbols", "role"], rows)}


def describe_module(file: Path) -> tuple[int, str, str]:
    """Lines, public symbols and first docstring sentence of a Python module, read without importing it."""
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text, filename=str(file))
    defined = [
        node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    ]
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets
        ):
            defined = list(ast.literal_eval(node.value))
    symbols = [symbol for symbol in defined if not symbol.startswith("_")]
    role = (ast.get_docstring(tree) or "").partition("\n")[0]
    return len(text.splitlines()), " ".join(symbols), role


def resources(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """Table 8: wall-clock of stages, from Snakemake's benchmark files.

    Params: rows: [{label, timings: benchmark files of its jobs, samples?, epochs?, hardware?}]; for the hardware "GPU",
    the number comes from the benchmark file.
    """
    body, total = [], 0.0
    for row in params["rows"]:
        missing = [timing for timing in row["timings"] if timing not in inputs.timings]
        if missing:
            raise DataError(
                "a stage has no timing",
                where=missing[0],
                why=f"timings were given for: {', '.join(inputs.timings) or 'none'}",
                remedy=f"pass Snakemake's benchmarks/{missing[0]}.tsv with --timings",
            )
        gpus = inputs.gpus.get(row["timings"][0])
        seconds = sum(inputs.timings[timing] for timing in row["timings"])
        total += seconds
        body.append(
            [
                row["label"],
                len(row["timings"]),
                row.get("samples", ""),
                row.get("epochs", ""),
                f"{gpus} GPU" if row.get("hardware") == "GPU" and gpus else row.get("hardware", ""),
                clock(seconds),
            ]
        )
    jobs = sum(len(row["timings"]) for row in params["rows"])
    return {
        "": Table(
            "Wall-clock by stage",
            ["stage", "jobs", "samples", "epochs", "hardware", "wall_clock"],
            [*body, ["total", jobs, "", "", "", clock(total)]],
            notes=["Times are summed over the jobs of a stage, which may run at the same time."],
            rule_before={len(body)},
        )
    }


def sft_run(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """Tables 9, 10 and 13: one SFT run as parameter and value.

    Params: run: name of the run; configuration: {name: value} printed first (samples, epochs); effective_batch: samples
    per step, for the throughput. The other values come from `log.jsonl`.
    """
    log = sft_log(inputs, params["run"])
    rows = [[key.replace("_", " "), value] for key, value in params.get("configuration", {}).items()]
    rows.append(["rows trained on", log.train_rows if log.train_rows is not None else "not logged"])
    rows.append(["rows held out", log.held_out_rows if log.held_out_rows is not None else "not logged"])
    if log.gpus:
        rows.append(["gpus", log.gpus])
    batch = params.get("effective_batch")
    if batch:
        rows.append(["effective batch size", batch])
    rows.append(["steps", log.total_steps])
    if log.seconds is not None:  # whole seconds; which rows there are does not depend on the time

        def per_second(number: int, places: int) -> str:
            return fixed(number / log.seconds, places) if log.seconds else "not measured"

        rows.append(["wall-clock of training", clock(log.seconds) if log.seconds else "under 1 s"])
        if batch:
            rows.append(["samples per second", per_second(batch * log.total_steps, 1)])
        rows.append(["steps per second", per_second(log.total_steps, 2)])
    losses = [loss for _, loss in log.losses]
    rows.append(["train loss, mean over steps", fixed(sum(losses) / len(losses), 3)])
    rows.append(["train loss, first and last logged", f"{fixed(losses[0], 2)} → {fixed(losses[-1], 2)}"])
    if log.evaluations:
        rows.append(["evaluation loss, last", fixed(log.evaluations[-1][1], 4)])
        rows.append(
            ["evaluation loss by step", ", ".join(f"{step}: {fixed(loss, 4)}" for step, loss in log.evaluations)]
        )
    return {"": Table(f"Supervised fine-tuning, run {params['run']}", ["parameter", "value"], rows, [_held_out(log)])}


def _held_out(log: SftLog) -> str:
    """What the evaluation loss was measured on, as a sentence."""
    if not log.evaluations:
        return "No rows were held out, so there is no evaluation loss."
    rows = "Held out" if log.held_out_rows is None else f"Held out: {log.held_out_rows} rows"
    return f"{rows} of the same fine-tuning data, drawn at random. They are not the questions of a benchmark."


class SftLog:
    """The losses of an SFT run, from records `{step, epoch, loss, lr, eval_loss, elapsed}` (see `tir.sft.log`).

    Attributes:
        losses, evaluations: (step, loss) pairs on the training batches and on the held-out set.
        total_steps: last step.
        seconds: wall-clock time of training, or None if it was not logged.
        gpus: number of GPUs, or None on a CPU.
        train_rows, held_out_rows: rows of the two sets, or None if they were not logged.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], where: str):
        self.losses = [(int(row["step"]), float(row["loss"])) for row in rows if "loss" in row]
        self.evaluations = [(int(row["step"]), float(row["eval_loss"])) for row in rows if "eval_loss" in row]
        if not self.losses:
            raise DataError("SFT log has no losses", where=where, why=f"{len(rows)} records, none with `loss`")
        self.total_steps = max(int(row["step"]) for row in rows)
        self.gpus, self.train_rows, self.held_out_rows = (
            next((int(row[key]) for row in rows if key in row), None) for key in ("gpus", "train_rows", "held_out_rows")
        )
        self.seconds = max((float(row["elapsed"]) for row in rows if "elapsed" in row), default=None)


def sft_log(inputs: Inputs, run: str) -> SftLog:
    """The losses of an SFT run."""
    return SftLog(inputs.log(run), f"runs/sft/{run}/log.jsonl")


def clock(seconds: float) -> str:
    """Seconds in readable units: 4.2 s, 42 s, 3 min 38 s, 1 h 35 min."""
    whole = int(fixed(seconds, 0))
    if whole < 60:
        return f"{fixed(seconds, 1)} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
