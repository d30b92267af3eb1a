"""Tables, trace analyses and statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator, model_validator

from tir.common.schema import Model, Name
from tir.config.faults import Fault, Faults

_MODEL_PATTERN = r"^([A-Za-z0-9][\w.]*|sft-[a-z]\w*|[A-Za-z][\w.]*@(\d+|first|last))$"


class Row(Model):
    """A row of a table."""

    label: str = Field(description="name of the row in tables and figures; by default the model's name")
    model: str = Field(
        description="a name under `models`, or sft, sft-epoch2, sft-medium (a pilot), arm@step, arm@first, arm@last",
        pattern=_MODEL_PATTERN,
    )
    style: str | None = Field(None, description="palette entry in figures: published, sft, grpo, aspo, gamma_only")
    data: str | None = Field(None, description="description of the training data (Tables 11 and 12)")
    paper: str | None = Field(
        None,
        description="row of the paper's table to compare with, e.g. GRPO @ 30; "
        "see tir/analysis/tables/paper_reference.yaml (Table 1: published or sft)",
    )

    @model_validator(mode="before")
    @classmethod
    def _label(cls, value: Any) -> Any:
        return {"label": value["model"], **value} if isinstance(value, Mapping) and "model" in value else value


class Table(Model):
    """A table of models by benchmarks."""

    rows: list[Row] = Field(min_length=1, description="models, in order")
    benchmarks: list[Name] | None = Field(None, description="columns; null: all standard benchmarks")
    in_all: bool = Field(True, description="made by default; false: only on request, e.g. results/terms.csv")

    @field_validator("rows")
    @classmethod
    def _one_label_each(cls, value: list[Row]) -> list[Row]:
        labels = [row.label for row in value]
        repeated = [position for position, label in enumerate(labels) if label in labels[:position]]
        if repeated:
            raise Faults(
                Fault((position, "label"), f"another row has the label {labels[position]}") for position in repeated
            )
        return value


class TraceSet(Model):
    """Trajectories that the trace analysis pools."""

    model: str = Field(description="model, as in a table's row, e.g. published or sft", pattern=_MODEL_PATTERN)
    benchmark: Name = Field(description="a name under `benchmarks`")
    n: int | None = Field(None, ge=1, description="number of items, from the first; null: all")


class TraceSampling(Model):
    """Decoding of the trajectories that the trace analysis pools, as in training; evaluation may be greedy."""

    temperature: float = Field(1.0, ge=0, le=10, description="sampling temperature; 0: greedy")
    samples: int = Field(4, ge=1, le=10_000, description="trajectories per item")


class FullSize(Model):
    """Tables on the full test sets, in results/n{n}/."""

    n: int = Field(500, ge=1, le=1_000_000, description="items per benchmark, or all if it has fewer")
    tables: list[Name] = Field(["table5", "table6"], min_length=1, description="names of tables, or qa_bigrams")
    in_all: bool = Field(False, description="made by default; false: only on request, e.g. results/n500/table5.csv")


class Statistics(Model):
    """Bootstrap of the claims about trajectories; all other intervals have a closed form."""

    resamples: int = Field(10_000, ge=100, le=10_000_000, description="bootstrap resamples per interval")
    seed: int = Field(0, ge=0, description="seed of the bootstrap")
