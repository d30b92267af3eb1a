"""What tables and trace analyses show, and how intervals are drawn."""

from __future__ import annotations

from pydantic import Field, field_validator

from tir.config.faults import Fault, Faults
from tir.schema import Model, Name

_MODEL_PATTERN = r"^(published|sft|sft-[a-z]\w*|[A-Za-z][\w.]*@(\d+|first|last))$"


class Row(Model):
    """A row of a table."""

    label: str
    model: str = Field(description="published, sft, sft-epoch2, sft-medium (a pilot), arm@step, arm@first or arm@last",
                       pattern=_MODEL_PATTERN)
    style: str | None = Field(None, description="palette entry in figures: published, sft, grpo, aspo, gamma_only")
    data: str | None = Field(None, description="what it was trained on, in words (Tables 11 and 12)")
    paper: str | None = Field(None, description="the paper's model in that table to print beside it, e.g. GRPO @ 30; "
                              "tir/tables/paper_reference.yaml (Table 1: published or sft)")


class Table(Model):
    """What a table of models shows."""

    rows: list[Row] = Field(min_length=1)
    benchmarks: list[Name] | None = Field(None, description="columns; null takes all standard benchmarks")
    in_all: bool = Field(True, description="made by default; false: made when asked for, e.g. results/terms.csv")

    @field_validator("rows")
    @classmethod
    def _one_label_each(cls, value: list[Row]) -> list[Row]:
        labels = [row.label for row in value]
        twice = [position for position, label in enumerate(labels) if label in labels[:position]]
        if twice:
            raise Faults(Fault((position, "label"), f"another row is called {labels[position]}") for position in twice)
        return value


class TraceSet(Model):
    """Trajectories that the trace analysis pools."""

    model: str = Field(description="a row's model, e.g. published or sft", pattern=_MODEL_PATTERN)
    benchmark: Name
    n: int | None = Field(None, ge=1, description="first items taken; null takes all")


class FullSize(Model):
    """Tables at full test sets, under results/n{n}/."""

    n: int = Field(500, ge=1, le=1_000_000, description="items per benchmark, or as many as it has")
    tables: list[Name] = Field(["table5", "table6"], min_length=1, description="tables, or qa_bigrams")
    in_all: bool = Field(False, description="made by default; false: made when asked for, results/n500/table5.csv")


class Statistics(Model):
    """Resampling."""

    resamples: int = Field(10_000, ge=100, le=10_000_000)
    seed: int = Field(0, ge=0)
