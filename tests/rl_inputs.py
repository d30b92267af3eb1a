"""Inputs of RL runs as small as they can be, for tests of its parts and of its launcher."""

from pathlib import Path

import pyarrow
import pyarrow.parquet

TOOLS = {"budget": 3, "leading_space": False, "result_tokens": 96, "routes": {"math": ["python"], "qa": ["search"]},
         "python": {}, "search": {}}


def rows_file(path: Path, *golds) -> Path:
    rows = [{"data_source": "grpo_mix", "question": f"q{number}", "ability": "math",
             "reward_model": {"ground_truth": gold, "style": "rule"}, "extra_info": {"index": None}}
            for number, gold in enumerate(golds)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path
