"""The file of questions: fetched from its source, or drawn from the generated world."""

from __future__ import annotations

import os
from random import Random
from typing import TYPE_CHECKING, Any

from tir.common.errors import DataError
from tir.data.rl_rows import write_rl_rows
from tir.data.sources import fetch_file
from tir.world.entities import World, build_world
from tir.world.rl import drawn_rows

if TYPE_CHECKING:
    from tir.config.world import WorldSettings

_AS = "rl_train.parquet"  # the file has the format of this one, and is checked by its reader
WORLD_ROWS = 1000


def fetch_questions(
    source: dict[str, Any], output: str | os.PathLike, world: WorldSettings | None, rows: int | None
) -> None:
    """Write the questions of `synthesis.questions`, and check every row.

    Args:
        source: a `tir.config.sources.Source` as JSON.
        output: Parquet file to write.
        world: the section `world`, for a source of kind world.
        rows: number of generated questions; None: `WORLD_ROWS`.

    Raises `DataError` with the key if the file cannot be used, `InfrastructureFault` if it cannot be downloaded.
    """
    if source["kind"] == "world":
        write_rl_rows(output, world_rows(build_world(world), rows or WORLD_ROWS))
        return
    try:
        fetch_file(_AS, source, output)
    except DataError as error:
        where, why = (text.replace(_AS, "questions") for text in (error.where, error.why))
        raise DataError(
            error.what, where=f"config.yaml:synthesis.questions: {where}", why=why, remedy=error.remedy
        ) from None


def world_rows(world: World, rows: int) -> list[dict]:
    """Questions like those of the generated fine-tuning data, of its split."""
    random, settings = Random(f"synthesis:{world.settings.seed}"), world.settings.trajectories
    return drawn_rows(world, "sft", rows, random, dict(settings.problems), settings.two_hop, "generated world")
