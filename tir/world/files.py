"""Write the world's files from the configuration's `world` section."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tir.common.errors import DataError
from tir.common.records import read_json, read_jsonl, write_jsonl
from tir.data.alpaca import write_alpaca
from tir.data.rl_rows import write_rl_rows
from tir.world.benchmarks import benchmark_rows
from tir.world.entities import build_world, passages
from tir.world.rl import rl_rows
from tir.world.trajectories import sft_rows

if TYPE_CHECKING:
    from tir.config.world import WorldSettings
    from tir.tools.python_tool import PythonToolConfig
    from tir.tools.search_tool import SearchToolConfig


def write_world(directory: str | Path, settings: WorldSettings) -> None:
    """Write corpus.jsonl, benchmarks/*.jsonl, rl_train.parquet and rl_validation.parquet.

    Args:
        directory: output directory.
        settings: the section `world`.
    """
    directory, world = Path(directory), build_world(settings)
    write_jsonl(directory / "corpus.jsonl", passages(world))
    for name, rows in benchmark_rows(world).items():
        write_jsonl(directory / "benchmarks" / f"{name}.jsonl", rows)
    for split in ("rl_train", "rl_validation"):
        write_rl_rows(directory / f"{split}.parquet", rl_rows(world, split))


def write_trajectories(
    world_directory: str | Path,
    index_directory: str | Path,
    output: str | Path,
    settings: WorldSettings,
    *,
    python: PythonToolConfig,
    search: SearchToolConfig,
) -> None:
    """Write the SFT rows as an Alpaca JSON list, with results of the configured tools.

    Args:
        world_directory: output directory of `write_world`, called with the same world settings.
        index_directory: a finished index over the corpus.
        output: the JSON file.
        settings: the section `world`.
        python: the section `tools.python`.
        search: the section `tools.search`.

    Raises `DataError` if the corpus is another world's, or if too many trajectories fail when their tools run.
    """
    from tir.retrieval.index import load_index
    from tir.retrieval.passage import render_passages
    from tir.tools.base import cap
    from tir.tools.python_tool import PythonTool

    world = build_world(settings)
    if read_jsonl(Path(world_directory) / "corpus.jsonl") != passages(world):
        raise DataError(
            "the corpus was generated with other settings",
            where=str(Path(world_directory) / "corpus.jsonl"),
            why="its passages differ from the passages of the configured world",
            remedy=f"rm -r {world_directory} {index_directory}  # then run again",
        )
    index = load_index(index_directory, device="cpu", threads=os.cpu_count() or 1)

    def find(queries: list[str]) -> list[str]:
        if not queries:
            return []
        return [cap(render_passages(results), search.output_chars) for results in index.search(queries, search.top_k)]

    with PythonTool(**dict(python) | {"workers": os.cpu_count() or 1}) as tool:
        rows = sft_rows(world, settings.trajectories, lambda codes: [each.text for each in tool.run_many(codes)], find)
    write_alpaca(output, rows)


def tokenizer_text(corpus: str | Path, sft: str | Path) -> list[str]:
    """Text for training the tiny tokenizer: passages, prompts and trajectories.

    Args:
        corpus: the world's passages, JSON Lines.
        sft: the world's trajectories, Alpaca JSON; the first 4,000 are used.
    """
    text = [row["contents"] for row in read_jsonl(corpus)]
    text += [
        "\n".join(("system", row["instruction"], "user", row["input"], "assistant", row["output"]))
        for row in read_json(sft)[:4000]
    ]
    return text
