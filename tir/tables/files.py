"""The files of a table and its companions: every spelling, with provenance."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tir.records import write_provenance, write_text
from tir.tables.layout import Table
from tir.tables.page import page


def write_tables(
    tables: Mapping[str, Table],
    output: str | os.PathLike,
    *,
    config: Any,
    seed: int | None = None,
    packages: Iterable[str] = (),
    code: Iterable[str | os.PathLike] = (),
) -> list[Path]:
    """Write the table "" to `output` (CSV) with `.md`, `.tex` and `.html` beside it, companions as `{stem}_{suffix}.csv`.

    Every file gets a `.provenance.json`. Returns the files written.
    """
    output = Path(output)
    texts = {
        output: tables[""].csv(),
        output.with_suffix(".md"): tables[""].markdown(),
        output.with_suffix(".tex"): tables[""].latex(),
        output.with_suffix(".html"): page(tables),
    }
    texts |= {
        output.with_name(f"{output.stem}_{suffix}.csv"): table.csv() for suffix, table in tables.items() if suffix
    }
    for path, text in texts.items():
        write_text(path, text)
        write_provenance(path, config=config, seed=seed, packages=tuple(packages), code=code)
    return list(texts)
