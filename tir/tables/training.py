"""Tables about training: the module inventory (7), resources (8), and the outcomes of SFT runs (9, 10, 13)."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tir.errors import DataError
from tir.tables.inputs import Inputs
from tir.tables.layout import Table


def module_inventory(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """Table 7: modules of a package: lines, public symbols, role; input `data`: the package's directory."""
    if not inputs.data:
        raise DataError("no package given", where=f"{name}: data", remedy="--data aspo")
    files = [
        file
        for package in inputs.data
        for file in sorted(package.glob("*.py"), key=lambda file: (file.stem == "__init__", file.stem))
    ]
    if not files:
        raise DataError("package has no modules", where=str(inputs.data[0]))
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

    Params: rows: [{label, timing: stem of the benchmark file, samples?, epochs?, hardware?}].
    """
    body = []
    for row in params["rows"]:
        if row["timing"] not in inputs.timings:
            raise DataError(
                "no timing",
                where=row["timing"],
                why=f"there are {', '.join(inputs.timings) or 'none'}",
                remedy="pass Snakemake's benchmark files with --timings",
            )
        body.append(
            [
                row["label"],
                row.get("samples", ""),
                row.get("epochs", ""),
                row.get("hardware", ""),
                clock(inputs.timings[row["timing"]]),
            ]
        )
    total = sum(inputs.timings[row["timing"]] for row in params["rows"])
    return {
        "": Table(
            "Wall-clock by stage",
            ["stage", "samples", "epochs", "hardware", "wall_clock"],
            [*body, ["total", "", "", "", clock(total)]],
            rule_before={len(body)},
        )
    }


def sft_run(name: str, inputs: Inputs, params: Mapping[str, Any]) -> dict[str, Table]:
    """Tables 9, 10 and 13: one SFT run as parameter and value.

    Params: run: name of the run; configuration: {name: value} printed first (samples, epochs); effective_batch: samples
    per step, for the throughput. Everything else is read from `log.jsonl`.
    """
    log = sft_log(inputs, params["run"])
    rows = [[key.replace("_", " "), value] for key, value in params.get("configuration", {}).items()]
    batch = params.get("effective_batch")
    if batch:
        rows.append(["effective batch size", batch])
    rows.append(["steps", log.total_steps])
    if log.seconds:
        rows.append(["wall-clock of training", clock(log.seconds)])
        if batch:
            rows.append(["samples per second", f"{batch * log.total_steps / log.seconds:.1f}"])
        rows.append(["steps per second", f"{log.total_steps / log.seconds:.2f}"])
    losses = [loss for _, loss in log.losses]
    rows.append(["train loss, mean over steps", f"{sum(losses) / len(losses):.3f}"])
    rows.append(["train loss, first and last logged", f"{losses[0]:.2f} → {losses[-1]:.2f}"])
    if log.evaluations:
        rows.append(["evaluation loss, last", f"{log.evaluations[-1][1]:.4f}"])
        rows.append(["evaluation loss by step", ", ".join(f"{step}: {loss:.4f}" for step, loss in log.evaluations)])
    return {"": Table(f"Supervised fine-tuning, run {params['run']}", ["parameter", "value"], rows)}


class SftLog:
    """An SFT run's curve, from records `{step, epoch, loss, lr, eval_loss, elapsed}` (see `tir.sft.log`).

    Attributes:
        losses, evaluations: (step, loss) pairs of training and of the held-out set.
        total_steps: last step.
        seconds: wall-clock of training, or None if it was not logged.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], where: str):
        self.losses = [(int(row["step"]), float(row["loss"])) for row in rows if "loss" in row]
        self.evaluations = [(int(row["step"]), float(row["eval_loss"])) for row in rows if "eval_loss" in row]
        if not self.losses:
            raise DataError("SFT log has no losses", where=where, why=f"{len(rows)} records, none with `loss`")
        self.total_steps = max(int(row["step"]) for row in rows)
        self.seconds = max((float(row["elapsed"]) for row in rows if "elapsed" in row), default=None)


def sft_log(inputs: Inputs, run: str) -> SftLog:
    """The curve of an SFT run."""
    return SftLog(inputs.log(run), f"runs/sft/{run}/log.jsonl")


def clock(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3 min 38 s, 1 h 35 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
