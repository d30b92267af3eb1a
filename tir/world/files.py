"""The world's files, written from plain settings."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tir.errors import DataError
from tir.records import atomic_path, read_json, read_jsonl, write_jsonl
from tir.settings import from_params
from tir.world.benchmarks import benchmark_rows
from tir.world.drafts import Habits
from tir.world.entities import World, WorldSettings, build_world, passages
from tir.world.names import syllables_apart
from tir.world.rl import rl_rows
from tir.world.trajectories import TrajectorySettings, sft_rows


def trajectory_settings(params: dict[str, Any]) -> TrajectorySettings:
    """Trajectory settings from a plain mapping, `habits` nested."""
    params = dict(params)
    if "habits" in params:
        params["habits"] = from_params(Habits, params["habits"], "world.trajectories.habits")
    return from_params(TrajectorySettings, params, "world.trajectories")


def world_of(params: dict[str, Any]) -> World:
    """The world that a configuration's `world` section describes (its `trajectories` do not matter here)."""
    return build_world(from_params(WorldSettings, {key: params[key] for key in params if key != "trajectories"}, "world"))


def write_world(directory: str | Path, params: dict[str, Any]) -> None:
    """Write corpus.jsonl, benchmarks/*.jsonl, rl_train.parquet and rl_validation.parquet.

    Args:
        directory: where to.
        params: the `world` section: fields of `WorldSettings`, and `trajectories`.
    """
    directory, world = Path(directory), world_of(params)
    trajectory_settings(params.get("trajectories", {}))  # a mistake there is better found now than after the index
    write_jsonl(directory / "corpus.jsonl", passages(world))
    for name, rows in benchmark_rows(world).items():
        write_jsonl(directory / "benchmarks" / f"{name}.jsonl", rows)
    for split in ("rl_train", "rl_validation"):
        write_rl(directory / f"{split}.parquet", rl_rows(world, split))


def write_rl(path: str | Path, rows: list[dict]) -> None:
    """Write RL rows as parquet with the upstream columns and types."""
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema([
        ("data_source", pyarrow.string()), ("question", pyarrow.string()), ("ability", pyarrow.string()),
        ("reward_model", pyarrow.struct([("ground_truth", pyarrow.string()), ("style", pyarrow.string())])),
        ("extra_info", pyarrow.struct([("index", pyarrow.int64())])),
    ])
    with atomic_path(path) as temporary:
        parquet.write_table(pyarrow.Table.from_pylist(rows, schema), temporary)


def write_trajectories(world_directory: str | Path, index_directory: str | Path, output: str | Path,
                       params: dict[str, Any]) -> None:
    """Write the supervised set as an Alpaca JSON list, its tool results made by the configured tools.

    Args:
        world_directory: the directory `write_world` wrote; its corpus must be the one `params` describes.
        index_directory: a finished index over the corpus.
        output: the JSON file.
        params: the `world` section plus `tools` (`python`, `search`).
    """
    from tir.retrieval.index import load_index
    from tir.retrieval.render import render_passages
    from tir.tools.base import cap
    from tir.tools.python_tool import PythonTool

    tools = params.get("tools", {})
    world = world_of({key: params[key] for key in params if key != "tools"})
    settings = trajectory_settings(params.get("trajectories", {}))
    if read_jsonl(Path(world_directory) / "corpus.jsonl") != passages(world):
        raise DataError("the corpus is not of this world", where=str(Path(world_directory) / "corpus.jsonl"),
                        why="its passages differ from those the settings give", remedy="make the world and the index again")
    index = load_index(index_directory, device="cpu", threads=os.cpu_count() or 1)
    top_k, output_chars = tools.get("search", {}).get("top_k", 1), tools.get("search", {}).get("output_chars", 8000)

    def search(queries: list[str]) -> list[str]:
        return [cap(render_passages(found), output_chars) for found in index.search(queries, top_k)] if queries else []

    with PythonTool(**tools.get("python", {}), workers=os.cpu_count() or 1) as python:
        rows = sft_rows(world, settings, lambda codes: [result.text for result in python.run_many(codes)], search)
    with atomic_path(output) as temporary:
        temporary.write_text(json.dumps(rows, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def tokenizer_text(corpus: str | Path, sft: str | Path, rows: int = 4000) -> list[str]:
    """Text for training the tiny tokenizer: passages, prompts and trajectories, names broken at their syllables.

    Args:
        corpus: the world's passages, JSON Lines.
        sft: the world's trajectories, Alpaca JSON.
        rows: trajectories used, from the head of the file.
    """
    text = [row["contents"] for row in read_jsonl(corpus)]
    text += ["\n".join(("system", row["instruction"], "user", row["input"], "assistant", row["output"]))
             for row in read_json(sft)[:rows]]
    return [syllables_apart(item) for item in text]
