"""Trajectories and scores as lm-evaluation-harness writes them with `--output_path` and `--log_samples`.

A folder per model has `results_{time}.json`, with the means and the configuration of each task, and
`samples_{benchmark}_{time}.jsonl` with a line per item. The names are those that version 0.4 of the harness writes
(`lm_eval/evaluator.py`, `lm_eval/loggers/evaluation_tracker.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from statistics import mean
from typing import Any

from tir.analysis.exports import Trajectories, golds, item_mean, values
from tir.analysis.segments import segments_of
from tir.common.errors import DataError

FILTER = "none"  # the harness's name for no filter; it is a part of the names of metrics


def files(
    found: Mapping[str, Trajectories], *, model: str, system_prompt: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Contents of the files of a model by name: a list of rows (JSON Lines), or an object (JSON).

    Args:
        found: trajectories by benchmark; all must be finished, because the format cannot say that they are not.
        model: model id.
        system_prompt: text of the system turn.
        settings: what the run is described by, with `evaluation` (temperature, samples, ...).
    """
    time = datetime.fromtimestamp(max(each.created for each in found.values()), UTC)
    stamp = time.strftime("%Y-%m-%dT%H-%M-%S")
    decoding = settings.get("evaluation", {})
    tasks = {name: samples(name, each, system_prompt, decoding) for name, each in found.items()}
    names = {name: rows[0]["metrics"] for name, rows in tasks.items()}
    configs = {name: _config(name, names[name], found[name], decoding, settings) for name in tasks}
    results = {
        "results": {name: {"alias": name} | _means(found[name], names[name]) for name in tasks},
        "group_subtasks": {name: [] for name in tasks},
        "configs": configs,
        "versions": {name: "N/A" for name in tasks},
        "n-shot": {name: 0 for name in tasks},
        "higher_is_better": {name: dict.fromkeys(names[name], True) for name in tasks},
        "n-samples": {name: {"original": len(rows), "effective": _scored(rows)} for name, rows in tasks.items()},
        "config": {"model": "tool-star-aspo", "model_args": {"pretrained": model}}
        | {"gen_kwargs": _generation(decoding)},
        "git_hash": None,
        "date": time.timestamp(),
        "task_hashes": {name: _task_hash(rows) for name, rows in tasks.items()},
        "model_source": "tool-star-aspo",
        "model_name": model,
        "model_name_sanitized": model,
        "system_instruction": system_prompt,
        "system_instruction_sha": _hash(system_prompt),
        "fewshot_as_multiturn": False,
        "chat_template": None,
        "chat_template_sha": None,
        "total_evaluation_time_seconds": None,
    }
    return {f"results_{stamp}.json": results} | {f"samples_{name}_{stamp}.jsonl": rows for name, rows in tasks.items()}


def samples(
    benchmark: str, found: Trajectories, system_prompt: str, decoding: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """A row per item. A metric of an item is the mean over its trajectories, null if none of them has a score."""
    if not found.finished:
        raise DataError(
            "still being written",
            where=benchmark,
            why=f"{len(found.traces)} trajectories are there, and the format cannot say that others are missing",
            remedy="make status  # and export when the job has ended",
        )
    items: dict[Any, list[Mapping[str, Any]]] = {}
    for trace in found.traces:
        items.setdefault(trace["id"], []).append(trace)
    metrics = list(dict.fromkeys(name for score in found.scores.values() for name in values(score)))
    return [
        _row(number, traces, found, metrics, system_prompt, decoding) for number, traces in enumerate(items.values())
    ]


def _row(
    number: int,
    traces: Sequence[Mapping[str, Any]],
    found: Trajectories,
    metrics: Sequence[str],
    system_prompt: str,
    decoding: Mapping[str, Any],
) -> dict[str, Any]:
    first, gold = traces[0], golds(traces[0])
    doc = {"id": first["id"], "task": first["task"], "question": first["question"], "gold": gold}
    prompt = f"{system_prompt}\n\n{first['question']}"
    target = gold[0] if len(gold) == 1 else str(gold)
    answers = [each["answer"] or "" for each in traces]
    scores = [values(score) for each in traces if (score := found.score(each))]
    return {
        "doc_id": number,
        "doc": doc,
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": _generation(decoding)}},
        "resps": [["".join(segment.text for segment in segments_of(each)) for each in traces]],
        "filtered_resps": answers if len(answers) == 1 else [answers],
        "filter": FILTER,
        "metrics": list(metrics),
        "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _hash(prompt),
        "target_hash": _hash(target),
    } | {name: mean(found) if (found := [each[name] for each in scores if name in each]) else None for name in metrics}


def _means(found: Trajectories, metrics: Sequence[str]) -> dict[str, float | str]:
    """Mean and standard error over items of each metric, under the harness's names; N/A where there is none."""
    means: dict[str, float | str] = {}
    for name in metrics:
        scored = [(each["id"], values(score)) for each in found.traces if (score := found.score(each))]
        value, error = item_mean((item, each[name]) for item, each in scored if name in each)
        means[f"{name},{FILTER}"] = value
        means[f"{name}_stderr,{FILTER}"] = "N/A" if error is None else error
    return means


def _config(
    name: str, metrics: Sequence[str], found: Trajectories, decoding: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "task": name,
        "test_split": "test",
        "output_type": "generate_until",
        "metric_list": [{"metric": each, "aggregation": "mean", "higher_is_better": True} for each in metrics],
        "generation_kwargs": _generation(decoding),
        "num_fewshot": 0,
        "repeats": len({each["sample"] for each in found.traces}),
        "metadata": dict(settings),
    }


def _generation(decoding: Mapping[str, Any]) -> dict[str, Any]:
    """The harness's names of the settings of decoding."""
    names = {"max_response_tokens": "max_gen_toks", "temperature": "temperature", "top_p": "top_p"}
    known = {new: decoding[old] for old, new in names.items() if decoding.get(old) is not None}
    return {"until": [], "do_sample": bool(decoding.get("temperature"))} | known


def _scored(rows: Sequence[Mapping[str, Any]]) -> int:
    return sum(any(row[name] is not None for name in row["metrics"]) for row in rows)


def _task_hash(rows: Sequence[Mapping[str, Any]]) -> str:
    return _hash("".join(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in rows))


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()
