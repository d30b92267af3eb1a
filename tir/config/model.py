"""What all configuration models share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.]*$")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Model(BaseModel):
    """Unknown keys are errors; values are never silently converted between kinds."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, protected_namespaces=())
